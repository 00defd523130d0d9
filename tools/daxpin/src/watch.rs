// SPDX-License-Identifier: MIT OR Apache-2.0
//! A live view: the terminal is left as it was found, whatever ends it.

use crate::table;
use anyhow::Context;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::low_level::pipe;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The time is over, or the window has another size.
    Again,
    /// Somebody wants it to end.
    End,
}

/// Where snapshots are shown, one in place of the other on a terminal, one after the other elsewhere.
pub struct Screen {
    terminal: bool,
    end: UnixStream,
    resized: UnixStream,
}

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H\x1b[2J";

impl Screen {
    /// Takes over the terminal, if standard output is one and `full` is wanted.
    ///
    /// # Errors
    /// Where signals cannot be caught.
    pub fn open(full: bool) -> anyhow::Result<Screen> {
        let (end, ends) = UnixStream::pair().context("a socket pair")?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            pipe::register(signal, ends.try_clone()?).context("cannot catch signals")?;
        }
        let (resized, resizes) = UnixStream::pair().context("a socket pair")?;
        pipe::register(SIGWINCH, resizes).context("cannot catch signals")?;
        resized.set_nonblocking(true)?;
        let screen = Screen {
            terminal: full && std::io::stdout().is_terminal(),
            end,
            resized,
        };
        if screen.terminal {
            put(ENTER)?;
        }
        Ok(screen)
    }

    /// Shows a snapshot; false once nobody reads any more.
    ///
    /// # Errors
    /// Those of writing.
    pub fn show(&mut self, text: &str) -> anyhow::Result<bool> {
        if !self.terminal {
            return put(text);
        }
        let rows = table::size().map_or(usize::MAX, |(_, rows)| usize::from(rows));
        put(&format!("{HOME}{}", cut(text, rows)))
    }

    /// Waits for the next snapshot's time.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&mut self, interval: Duration) -> anyhow::Result<Event> {
        let time = Timespec::try_from(interval).context("an interval that long")?;
        let mut fds = [
            PollFd::new(&self.end, PollFlags::IN),
            PollFd::new(&self.resized, PollFlags::IN),
        ];
        match poll(&mut fds, Some(&time)) {
            // A signal that was caught is in its pipe.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let now = Timespec::default();
        let mut end = [PollFd::new(&self.end, PollFlags::IN)];
        let ended = poll(&mut end, Some(&now)).context("poll")? > 0;
        let mut drain = [0; 64];
        while self.resized.read(&mut drain).is_ok_and(|count| count > 0) {}
        Ok(if ended { Event::End } else { Event::Again })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            let _ = put(LEAVE);
        }
    }
}

fn put(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("standard output"),
    }
}

/// As many lines as there is room for, and how many are left out.
fn cut(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() < rows {
        return text.to_owned();
    }
    let room = rows.saturating_sub(2);
    let mut out: String = lines[..room]
        .iter()
        .flat_map(|line| [*line, "\n"])
        .collect();
    out.push_str(&format!("... {} more lines", lines.len() - room));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(cut("a\nb\n", 24), "a\nb\n");
        assert_eq!(cut("a\nb\nc\nd\n", 4), "a\nb\n... 2 more lines");
    }

    #[test]
    fn a_signal_ends_the_wait_at_once() {
        let mut screen = Screen::open(true).unwrap();
        let short = Duration::from_millis(10);
        assert_eq!(screen.wait(short).unwrap(), Event::Again);
        signal_hook::low_level::raise(SIGWINCH).unwrap();
        assert_eq!(screen.wait(Duration::from_secs(60)).unwrap(), Event::Again);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(screen.wait(Duration::from_secs(60)).unwrap(), Event::End);
    }
}
