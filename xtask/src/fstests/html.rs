// SPDX-License-Identifier: MIT OR Apache-2.0
//! All results on one HTML page, which needs nothing but itself.

use super::compare::Difference;
use super::result::Verdict;
use super::store::{Results, Unit};
use crate::report::markup::escape;

const STYLE: &str = "\
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }\n\
table { border-collapse: collapse; width: 100%; }\n\
td, th { border-bottom: 1px solid #ccc; padding: .2em .6em; text-align: left; vertical-align: top; }\n\
td.n { text-align: right; }\n\
pre { overflow-x: auto; background: #f4f4f4; padding: .5em; margin: .3em 0; }\n\
.pass { color: #176117; } .bad { color: #b00020; font-weight: bold; } .skip { color: #666; }\n";

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail | Verdict::Crash => "bad",
        Verdict::NotRun | Verdict::Excluded => "skip",
    }
}

fn detail(verdict: Verdict, lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        [one] => escape(one),
        [first, ..] if verdict.is_bad() => format!(
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escape(first),
            escape(&lines.join("\n"))
        ),
        _ => escape(&lines.join(" ")),
    }
}

fn unit(out: &mut String, unit: &Unit) {
    out.push_str(&format!(
        "<h2>{}</h2>\n<p>{}</p>\n<table>\n<tr><th>test<th>result<th>s<th></tr>\n",
        escape(&unit.title()),
        escape(&unit.summary())
    ));
    let mut tests: Vec<_> = unit.outcomes.iter().collect();
    // What needs attention first; otherwise in their order.
    tests.sort_by_key(|(_, o)| !o.verdict.is_bad());
    for (name, o) in tests {
        let seconds = o.seconds.map_or(String::new(), |s| format!("{s:.0}"));
        out.push_str(&format!(
            "<tr><td>{}<td class=\"{}\">{}<td class=\"n\">{seconds}<td>{}</tr>\n",
            escape(name),
            class(o.verdict),
            o.verdict.word(),
            detail(o.verdict, &o.detail)
        ));
    }
    out.push_str("</table>\n");
}

/// The page. `differences` is there if two kernels were compared.
pub fn render(results: &Results, differences: Option<&[Difference]>) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>fstests</title>\n\
         <style>\n{STYLE}</style></head><body>\n<h1>fstests</h1>\n<table>\n"
    );
    for (key, value) in &results.about {
        out.push_str(&format!(
            "<tr><th>{}<td>{}</tr>\n",
            escape(key),
            escape(value)
        ));
    }
    out.push_str("</table>\n");
    if let Some(differences) = differences {
        out.push_str("<h2>base against patched</h2>\n");
        if differences.is_empty() {
            out.push_str("<p>No difference.</p>\n");
        } else {
            out.push_str(
                "<table>\n<tr><th><th>configuration<th>test<th>base<th>patched<th></tr>\n",
            );
            for row in super::compare::rows(differences) {
                let cells: Vec<String> = row.iter().map(|c| format!("<td>{}", escape(c))).collect();
                out.push_str(&format!("<tr>{}</tr>\n", cells.concat()));
            }
            out.push_str("</table>\n");
        }
    }
    results.units.iter().for_each(|u| unit(&mut out, u));
    out.push_str("</body></html>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::result::Outcome;
    use super::*;

    #[test]
    fn failures_come_first_and_show_their_differences() {
        let outcome = |verdict, detail: &[&str]| Outcome {
            verdict,
            detail: detail.iter().map(|s| s.to_string()).collect(),
            seconds: Some(2.4),
        };
        let results = Results {
            about: [("kernel".to_string(), "7.3 <x>".to_string())].into(),
            units: vec![Unit {
                kernel: "patched".into(),
                config: "xfs/dax".into(),
                round: 1,
                outcomes: [
                    ("generic/001".to_string(), outcome(Verdict::Pass, &[])),
                    (
                        "generic/002".to_string(),
                        outcome(Verdict::Fail, &["output mismatch", "-a", "+<b>"]),
                    ),
                ]
                .into(),
            }],
        };
        let page = render(&results, Some(&[]));
        assert!(page.contains("7.3 &lt;x&gt;") && page.contains("No difference."));
        assert!(page.contains("+&lt;b&gt;</pre>"));
        assert!(page.find("generic/002").unwrap() < page.find("generic/001").unwrap());
        assert!(page.contains("<td class=\"n\">2<td>"));
    }
}
