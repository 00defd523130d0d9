// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stops QEMU's processors and lets them go on, by its machine protocol.

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// QEMU answers at once, on a machine that is not overloaded.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects to the socket.
    pub fn connect(path: &Path) -> Result<Qmp> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Qmp(BufReader::new(stream));
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU greets with {greeting}");
        }
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Stops all processors. What the guest has stored is in its memory, and stays.
    pub fn stop(&mut self) -> Result<()> {
        self.execute("stop")
    }

    /// Lets them go on. The guest's clock goes on from where it stopped, too.
    pub fn resume(&mut self) -> Result<()> {
        self.execute("cont")
    }

    fn execute(&mut self, command: &str) -> Result<()> {
        let request = format!("{}\n", json!({ "execute": command }));
        self.0
            .get_mut()
            .write_all(request.as_bytes())
            .with_context(|| format!("cannot ask QEMU to {command}"))?;
        loop {
            let answer = self
                .line()
                .with_context(|| format!("QEMU does not answer {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses to {command}: {error}");
            }
            // Anything else tells of an event.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            bail!("QEMU has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU says {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Answers with these lines, one for each request after the greeting.
    fn against(answers: &'static [&'static str], test: impl FnOnce(Result<Qmp>)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (greeting, rest) = answers.split_first().unwrap();
            writeln!(stream, "{greeting}").unwrap();
            let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut seen = vec![];
            for answer in rest {
                seen.push(requests.next().unwrap().unwrap());
                writeln!(stream, "{answer}").unwrap();
            }
            seen
        });
        test(Qmp::connect(&path));
        drop(server.join());
    }

    const GREETING: &str = r#"{"QMP":{"version":{}}}"#;
    const DONE: &str = r#"{"return":{}}"#;

    #[test]
    fn events_are_passed_over() {
        const STOPPED: &str = "{\"event\":\"STOP\"}\n{\"return\":{}}";
        against(&[GREETING, DONE, STOPPED, DONE], |qmp| {
            let mut qmp = qmp.unwrap();
            qmp.stop().unwrap();
            qmp.resume().unwrap();
        });
    }

    #[test]
    fn errors_and_ends_are_told() {
        const ERROR: &str = r#"{"error":{"class":"GenericError","desc":"no"}}"#;
        against(&[GREETING, DONE, ERROR], |qmp| {
            let mut qmp = qmp.unwrap();
            let error = qmp.stop().unwrap_err().to_string();
            assert!(error.contains("refuses to stop"), "{error}");
            assert!(qmp.resume().is_err());
        });
        against(&["{}"], |qmp| assert!(qmp.is_err()));
    }
}
