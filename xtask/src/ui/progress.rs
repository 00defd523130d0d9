// SPDX-License-Identifier: MIT OR Apache-2.0
//! Progress of long work: a line that moves and a window of the last lines on a terminal, plain
//! lines at a bounded rate elsewhere.

use super::proc::Cmd;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Lines in the scrolling window.
const WINDOW: usize = 8;
/// At most one plain line of progress in this time.
const PLAIN_EVERY: Duration = Duration::from_secs(15);

/// How to talk to the user.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    tty: bool,
    verbose: bool,
}

impl Ui {
    /// Finds out whether stderr is a terminal.
    pub fn new(verbose: bool) -> Self {
        let tty = console::user_attended_stderr() && std::env::var_os("CI").is_none();
        Ui { tty, verbose }
    }

    /// A line on stderr.
    pub fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Announces a step and starts its clock.
    pub fn step(&self, label: &str) -> Step {
        let bar = (self.tty && !self.verbose).then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {msg}");
            if let Ok(s) = style {
                bar.set_style(s);
            }
            bar.set_prefix(label.to_string());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("==> {label}");
        }
        Step {
            label: label.to_string(),
            bar,
            verbose: self.verbose,
            started: Instant::now(),
            last_plain: Instant::now(),
            window: VecDeque::new(),
            status: String::new(),
            finished: false,
        }
    }
}

/// A step under way.
pub struct Step {
    label: String,
    bar: Option<ProgressBar>,
    verbose: bool,
    started: Instant,
    last_plain: Instant,
    window: VecDeque<String>,
    status: String,
    finished: bool,
}

impl Step {
    /// Sets what is shown beside the label, such as `812 of about 1900 objects`.
    pub fn status(&mut self, status: String) {
        self.status = status;
        self.redraw();
    }

    /// Adds a line of output to the window.
    pub fn line(&mut self, line: &str) {
        if self.verbose {
            eprintln!("{line}");
        }
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window
            .push_back(console::strip_ansi_codes(line).into_owned());
        self.redraw();
    }

    /// Runs `cmd`, shows what it writes in the window, and returns that with its status.
    pub fn run(&mut self, cmd: &Cmd) -> Result<(ExitStatus, String)> {
        let mut text = String::new();
        let status = cmd.lines(|l| {
            text.push_str(l);
            text.push('\n');
            self.line(l);
        })?;
        Ok((status, text))
    }

    fn redraw(&mut self) {
        if let Some(bar) = &self.bar {
            let width = usize::from(console::Term::stderr().size().1)
                .saturating_sub(4)
                .max(20);
            let mut text = self.status.clone();
            for l in &self.window {
                text.push_str("\n    ");
                let l = l.replace('\t', " ");
                text.push_str(
                    &console::style(console::truncate_str(&l, width, "…"))
                        .dim()
                        .to_string(),
                );
            }
            bar.set_message(text);
        } else if !self.verbose && self.last_plain.elapsed() >= PLAIN_EVERY {
            self.last_plain = Instant::now();
            let last = self.window.back().map(|l| l.trim()).unwrap_or_default();
            let parts: Vec<&str> = [self.status.as_str(), last]
                .into_iter()
                .filter(|s| !s.is_empty())
                .collect();
            eprintln!(
                "    {}: {}",
                human(self.started.elapsed()),
                parts.join(": ")
            );
        }
    }

    /// The step is done; `what` is a word or two on the result.
    pub fn done(mut self, what: &str) {
        self.finished = true;
        let time = human(self.started.elapsed());
        let what = if what.is_empty() {
            String::new()
        } else {
            format!("{what}, ")
        };
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            let tick = console::style("✓").green().for_stderr();
            eprintln!("{tick} {}  ({what}{time})", self.label);
        } else {
            eprintln!("    done: {what}{time}");
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            eprintln!("{} {}", console::style("✗").red().for_stderr(), self.label);
        } else if !self.finished {
            eprintln!(
                "    failed: {} after {}",
                self.label,
                human(self.started.elapsed())
            );
        }
    }
}

/// A duration as a person writes it.
pub fn human(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..=9 => format!("{:.1} s", d.as_secs_f64()),
        10..=119 => format!("{s} s"),
        _ => format!("{} min {:02} s", s / 60, s % 60),
    }
}

/// Nanoseconds as a person writes them, to three digits.
pub fn human_ns(ns: u64) -> String {
    let ns = ns as f64;
    let (value, unit) = if ns < 1e3 {
        (ns, "ns")
    } else if ns < 1e6 {
        (ns / 1e3, "µs")
    } else if ns < 1e9 {
        (ns / 1e6, "ms")
    } else {
        (ns / 1e9, "s")
    };
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    let digits = if unit == "ns" { 0 } else { digits };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(human(Duration::from_secs(75)), "75 s");
        assert_eq!(human(Duration::from_secs(605)), "10 min 05 s");
        assert_eq!(human_ns(950), "950 ns");
        assert_eq!(human_ns(12_345), "12.3 µs");
        assert_eq!(human_ns(1_234_567), "1.23 ms");
        assert_eq!(human_ns(12_345_678_901), "12.3 s");
    }
}
