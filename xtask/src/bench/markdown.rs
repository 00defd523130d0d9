// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables as text, for a terminal and for `Documentation/bench.md`.

use super::budgets::{Budget, Finding, Outcome};
use super::page::place;
use super::records::{Results, INSTRUCTIONS};
use std::fmt::Write;

/// A budget in signs.
pub fn limit(budget: &Budget) -> String {
    let signs = [(budget.at_most, "≤"), (budget.at_least, "≥")];
    let all = signs
        .iter()
        .filter_map(|(value, sign)| value.map(|v| format!("{sign} {v}")));
    let text = all.collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        "told".into()
    } else {
        text
    }
}

/// A result as tables show it.
pub fn ratio(finding: &Finding) -> String {
    match finding.reference {
        Some(_) => format!("{:.4}", finding.result),
        None => format!("{:.0}", finding.result),
    }
}

/// What to say of a budget.
pub fn status(outcome: &Outcome) -> String {
    let bad = outcome.exceeded().count();
    match (outcome.findings.len(), bad) {
        (0, _) => "not measured".into(),
        (_, 0) => "within".into(),
        (all, bad) => format!("exceeded by {bad} of {all}"),
    }
}

/// How it was measured and how well boots agree, a paragraph each.
pub fn summary(results: &Results) -> Vec<String> {
    let count = |kernel| {
        results
            .boots
            .iter()
            .filter(|b| b.kernel == kernel && b.counted)
            .count()
    };
    let mut all = vec![format!(
        "Linux {}; {} boots of the base kernel and {} of the series, with the same configuration and the \
         same command line. Costs are numbers of instructions, of one processor that QEMU counts them for; \
         each is the median of several times in one boot, and the mean of the boots.",
        results.setting.release,
        count("base"),
        count("series")
    )];
    if let Some(spread) = results.spread() {
        all.push(format!(
            "Between boots of one kernel, {} of {} values agree to 0.5 %; the median difference is {:.3} %, \
             the largest {:.2} % ({}).",
            spread.within,
            spread.of,
            spread.median * 100.0,
            spread.largest.0 * 100.0,
            place(&spread.largest.1)
        ));
    }
    all
}

/// The table of budgets for a terminal.
pub fn rows(outcomes: &[Outcome]) -> Vec<Vec<String>> {
    outcomes
        .iter()
        .map(|outcome| {
            let worst = outcome.worst();
            vec![
                outcome.budget.what.clone(),
                limit(&outcome.budget),
                worst.map_or(String::new(), ratio),
                status(outcome),
            ]
        })
        .collect()
}

/// What exceeds its budget, a line each.
pub fn exceeded(outcomes: &[Outcome]) -> Vec<String> {
    let mut all = vec![];
    for outcome in outcomes {
        for finding in outcome.exceeded() {
            all.push(format!(
                "{}: {} ({}; budget {})",
                place(&finding.key),
                ratio(finding),
                outcome.budget.what,
                limit(&outcome.budget)
            ));
        }
    }
    all
}

/// The whole of `Documentation/bench.md`.
pub fn document(results: &Results, outcomes: &[Outcome]) -> String {
    let mut out = String::from(
        "<!-- SPDX-License-Identifier: MIT OR Apache-2.0 -->\n\
         <!-- Written by `cargo xtask bench`; not to be edited. -->\n\
         # What it costs\n",
    );
    for line in summary(results) {
        let _ = write!(out, "\n{line}\n");
    }
    let _ = write!(
        out,
        "\n## Budgets\n\n\
         Each row shows the comparison that is worst for it. Budgets are in `configs/bench-budgets.toml`.\n\n\
         | what | against | budget | worst | where | |\n|---|---|---|---|---|---|\n"
    );
    for outcome in outcomes {
        let worst = outcome.worst();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            outcome.budget.what,
            outcome.budget.against,
            limit(&outcome.budget),
            worst.map_or(String::new(), ratio),
            worst.map_or(String::new(), |f| place(&f.key)),
            status(outcome)
        );
    }
    let bad = exceeded(outcomes);
    if !bad.is_empty() {
        out.push_str("\n## Exceeded\n\n");
        for line in bad {
            let _ = writeln!(out, "- {line}");
        }
    }
    moved(&mut out, outcomes);
    details(&mut out, results, outcomes);
    setting(&mut out, results);
    out
}

/// Budgets that are not what was aimed at, and why.
fn moved(out: &mut String, outcomes: &[Outcome]) {
    let mut heading = Some("\n## Where a budget was moved, and why\n\n");
    for budget in outcomes.iter().map(|outcome| &outcome.budget) {
        let Some(why) = &budget.why else { continue };
        out.push_str(heading.take().unwrap_or_default());
        let (what, against) = (&budget.what, &budget.against);
        let _ = writeln!(out, "- {what}, against {against}: {}. {why}", limit(budget));
    }
}

fn details(out: &mut String, results: &Results, outcomes: &[Outcome]) {
    out.push_str("\n## Every comparison\n");
    for outcome in outcomes.iter().filter(|o| !o.findings.is_empty()) {
        let _ = write!(
            out,
            "\n### {}, against {}\n\n| | cost | reference | ratio | spread |\n|---|---:|---:|---:|---:|\n",
            outcome.budget.what, outcome.budget.against
        );
        for finding in &outcome.findings {
            let unit = match results.unit(&finding.key.name) {
                INSTRUCTIONS => "",
                unit => unit,
            };
            let number = |value: f64| {
                let digits = if value.fract() == 0.0 || value >= 1000.0 {
                    0
                } else {
                    1
                };
                format!("{value:.digits$} {unit}").trim_end().to_string()
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {:.2} % |",
                place(&finding.key),
                number(finding.value),
                finding.reference.map(number).unwrap_or_default(),
                finding
                    .reference
                    .map(|_| ratio(finding))
                    .unwrap_or_default(),
                finding.spread * 100.0
            );
        }
    }
}

fn setting(out: &mut String, results: &Results) {
    let setting = &results.setting;
    out.push_str("\n## How\n\n| | |\n|---|---|\n");
    for (kernel, image) in &setting.images {
        let _ = writeln!(out, "| {kernel} | {image} |");
    }
    let _ = writeln!(out, "| QEMU | {} |", setting.qemu);
    let _ = writeln!(out, "| command line | `{}` |", setting.command_line);
    let _ = writeln!(out, "| project | {} |", setting.project);
}

#[cfg(test)]
mod tests {
    use super::super::budgets::{judge, Compare};
    use super::super::records::tests::results;
    use super::*;

    fn budget(at_most: f64) -> Budget {
        Budget {
            what: "punching".into(),
            against: "the base kernel".into(),
            compare: Compare::Base,
            names: vec!["punch".into()],
            variants: vec![],
            from: None,
            to: None,
            why: None,
            at_most: Some(at_most),
            at_least: None,
            within_spread: false,
        }
    }

    #[test]
    fn what_is_exceeded_is_named() {
        let results = results(&[
            ("base", "punch", "xfs", None, 1000.0),
            ("series", "punch", "xfs", None, 1100.0),
        ]);
        let outcomes = judge(&[budget(1.01), budget(2.0)], &results);
        assert_eq!(
            exceeded(&outcomes),
            ["punch, xfs: 1.1000 (punching; budget ≤ 1.01)"]
        );
        assert_eq!(status(&outcomes[0]), "exceeded by 1 of 1");
        assert_eq!(status(&outcomes[1]), "within");
        let text = document(&results, &outcomes);
        assert!(text.contains("| punch, xfs | 1100 | 1000 | 1.1000 | 0.00 % |"));
        assert!(text.contains("exceeded by 1 of 1"));
    }

    #[test]
    fn what_was_not_measured_is_not_within() {
        let outcomes = judge(&[budget(1.0)], &results(&[]));
        assert_eq!(status(&outcomes[0]), "not measured");
        assert_eq!(rows(&outcomes)[0][3], "not measured");
    }
}
