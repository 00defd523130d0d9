// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demo's results as the guest wrote them: JSON Lines, one object a step.

use crate::ui::progress::human_ns;
use crate::ui::table;
use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

/// One step of the scenario.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Step {
    /// The filesystem, or the kind of memory.
    pub fs: String,
    /// The part of the scenario.
    pub group: String,
    /// What was tried.
    pub step: String,
    /// What the contract says.
    pub expected: String,
    /// What happened.
    pub got: String,
    /// The error number, if a call failed.
    pub errno: Option<i64>,
    /// How long it took.
    pub nanoseconds: Option<u64>,
    /// Is it as the contract says?
    pub ok: bool,
}

#[derive(Deserialize)]
struct Done {
    done: bool,
    steps: usize,
}

/// The steps, and whether the guest came to the end of them.
pub fn parse(text: &str) -> Result<(Vec<Step>, bool)> {
    let mut steps = vec![];
    let mut complete = false;
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    for (n, line) in lines.iter().enumerate() {
        if complete {
            bail!("line {} of the results comes after the end", n + 1);
        }
        if let Ok(done) = serde_json::from_str::<Done>(line) {
            if !done.done || done.steps != steps.len() {
                bail!(
                    "the guest counted {} steps, {} were read",
                    done.steps,
                    steps.len()
                );
            }
            complete = true;
            continue;
        }
        match serde_json::from_str(line) {
            Ok(step) => steps.push(step),
            // The guest died while it wrote.
            Err(_) if n + 1 == lines.len() && !text.ends_with('\n') => {}
            Err(e) => return Err(e).with_context(|| format!("line {} of the results", n + 1)),
        }
    }
    Ok((steps, complete))
}

/// The table a person reads, grouped by filesystem and part of the scenario.
pub fn table(steps: &[Step]) -> Vec<String> {
    let mut out = vec![];
    let mut at = ("", "");
    let rows: Vec<Vec<String>> = steps.iter().map(row).collect();
    let lines = table::layout(&rows, 4);
    for (step, line) in steps.iter().zip(lines) {
        if step.fs != at.0 {
            if !out.is_empty() {
                out.push(String::new());
            }
            out.push(console::style(&step.fs).bold().to_string());
            at = (&step.fs, "");
        }
        if step.group != at.1 {
            out.push(format!("  {}", step.group));
            at.1 = &step.group;
        }
        out.push(line);
    }
    out
}

fn row(s: &Step) -> Vec<String> {
    let time = s
        .nanoseconds
        .filter(|&n| n > 0)
        .map(human_ns)
        .unwrap_or_default();
    let (mark, got) = if s.ok {
        (console::style("✓").green(), s.got.clone())
    } else {
        (
            console::style("✗").red(),
            format!("{}   expected: {}", s.got, s.expected),
        )
    };
    vec![mark.to_string(), s.step.clone(), got, time]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"fs":"xfs","group":"3 while it runs","step":"punch","expected":"ETXTBSY","got":"ETXTBSY","errno":26,"nanoseconds":12345,"ok":true}"#;

    #[test]
    fn steps_and_end_are_read() {
        let text = format!("{LINE}\n{LINE}\n{{\"done\": true, \"steps\": 2}}\n");
        let (steps, complete) = parse(&text).unwrap();
        assert!(complete);
        assert_eq!((steps.len(), steps[0].errno), (2, Some(26)));
    }

    #[test]
    fn a_guest_that_died_has_no_end() {
        let (steps, complete) = parse(&format!("{LINE}\n{}", &LINE[..30])).unwrap();
        assert_eq!((steps.len(), complete), (1, false));
    }

    #[test]
    fn a_wrong_count_is_an_error() {
        assert!(parse("{\"done\": true, \"steps\": 3}\n").is_err());
        assert!(parse("junk\n{\"done\": true, \"steps\": 0}\n").is_err());
    }

    #[test]
    fn the_table_groups_and_shows_what_was_expected_on_failure() {
        let (mut steps, _) = parse(&format!("{LINE}\n{LINE}\n")).unwrap();
        steps[1].ok = false;
        steps[1].got = "success".into();
        let lines: Vec<String> = table(&steps)
            .iter()
            .map(|l| console::strip_ansi_codes(l).into_owned())
            .collect();
        assert_eq!(lines[0], "xfs");
        assert_eq!(lines[1], "  3 while it runs");
        assert!(lines[2].contains("✓  punch  ETXTBSY") && lines[2].ends_with("12.3 µs"));
        assert!(lines[3].contains("✗") && lines[3].contains("expected: ETXTBSY"));
        assert_eq!(lines.len(), 4);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, cut, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let word = || "[ -~]{0,8}";
        let numbers = (
            proptest::option::of(any::<i64>()),
            proptest::option::of(any::<u64>()),
        );
        let step = (
            word(),
            word(),
            word(),
            word(),
            word(),
            numbers,
            any::<bool>(),
        );
        let step = step.prop_map(
            |(fs, group, step, expected, got, (errno, nanoseconds), ok)| Step {
                fs,
                group,
                step,
                expected,
                got,
                errno,
                nanoseconds,
                ok,
            },
        );
        vec(step, 0..5)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn steps_are_read_back_and_a_part_is_not_complete(steps in steps(), at in any::<Index>()) {
            let lines = steps.iter().map(|s| serde_json::to_string(s).unwrap() + "\n");
            let text = lines.collect::<String>() + &format!("{{\"done\":true,\"steps\":{}}}\n", steps.len());
            prop_assert_eq!(&parse(&text).unwrap(), &(steps.clone(), true));
            let (read, complete) = parse(cut(text.trim_end(), at)).unwrap();
            prop_assert!(!complete && steps.starts_with(&read));
            table(&steps);
        }

        #[test]
        fn noise_never_panics(text in noise(&["{\"done\":true", ",\"steps\":0}\n", "{\"fs\":", "}"])) {
            let _ = parse(&text);
        }
    }
}
