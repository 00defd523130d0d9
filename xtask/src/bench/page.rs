// SPDX-License-Identifier: MIT OR Apache-2.0
//! One HTML page that needs nothing else: the table of budgets, plots, and every value.

use super::budgets::Outcome;
use super::markdown::{limit, ratio, status, summary};
use super::plot::{bars, curves, short, Series};
use super::records::{Key, Results, Value};
use crate::report::markup::escape;
use std::collections::BTreeMap;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;\
color:#222}table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .7em;border-bottom:1px solid \
#ddd;text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}\
.bad{color:#b00020;font-weight:600}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));\
gap:1.5em}svg{width:100%;font:12px system-ui,sans-serif}.grid{stroke:#e4e4e4}dt{font-weight:600}";

/// A plot of the page: title, names of records, what x is, and whether x is in bytes.
const CURVES: [(&str, &[&str], &str, bool); 7] = [
    (
        "Pinning and unpinning",
        &["pin-unpin"],
        "bytes pinned",
        true,
    ),
    (
        "Registering and deregistering (rxe)",
        &["register-deregister"],
        "bytes registered",
        true,
    ),
    (
        "A refused change, by pins",
        &["ftruncate-refused", "punch-refused"],
        "pins",
        false,
    ),
    (
        "A change refused and one that succeeds, by size of the file",
        &[
            "ftruncate-refused",
            "punch-refused",
            "punch-succeeds",
            "ftruncate-succeeds",
        ],
        "bytes",
        true,
    ),
    (
        "A punch that succeeds beside pins",
        &["punch-beside-pins"],
        "pins",
        false,
    ),
    ("A line of a listing", &["listing-line"], "pins", false),
    ("The registry", &["registry"], "records", false),
];

/// Bars: title and name of the records.
const BARS: [(&str, &str); 3] = [
    (
        "Receive 64 MiB over RDMA and make it durable",
        "receive-durable",
    ),
    (
        "Of that, from the last completion to durable",
        "received-to-durable",
    ),
    ("Taking a lease and releasing it", "lease-kind"),
];

/// The page.
pub fn page(results: &Results, outcomes: &[Outcome]) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<!-- SPDX-License-Identifier: MIT OR Apache-2.0 -->\n<html lang=\"en\">\n\
         <meta charset=\"utf-8\">\n<title>What it costs</title>\n<style>{STYLE}</style>\n\
         <h1>What it costs</h1>\n"
    );
    for line in summary(results) {
        let _ = writeln!(out, "<p>{}</p>", escape(&line));
    }
    table(&mut out, outcomes);
    let series = results.of("series");
    out.push_str("<h2>Curves</h2>\n<div class=\"plots\">\n");
    for (title, names, x, bytes) in CURVES {
        let lines = lines(&series, names, bytes);
        if !lines.is_empty() {
            let y = if names == ["listing-line"] {
                "instructions a line"
            } else {
                "instructions"
            };
            let _ = writeln!(out, "<div>{}</div>", curves(title, x, y, bytes, &lines));
        }
    }
    out.push_str("</div>\n<h2>Beside the alternatives</h2>\n<div class=\"plots\">\n");
    for (title, name) in BARS {
        let of = series.iter().filter(|(key, _)| key.name == name);
        let all: Vec<(String, f64)> = of.map(|(k, v)| (k.variant.clone(), v.value)).collect();
        if !all.is_empty() {
            let _ = writeln!(out, "<div>{}</div>", bars(title, results.unit(name), &all));
        }
    }
    out.push_str("</div>\n");
    values(&mut out, results);
    out.push_str("</html>\n");
    out
}

fn table(out: &mut String, outcomes: &[Outcome]) {
    out.push_str(
        "<h2>Budgets</h2>\n<table><tr><th>what<th>against<th>budget<th>worst<th>where<th>\n",
    );
    for outcome in outcomes {
        let worst = outcome.worst();
        let place = worst.map_or(String::new(), |f| place(&f.key));
        let class = if outcome.exceeded().next().is_some() {
            " class=\"bad\""
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{}<td>{}<td class=\"n\">{}<td>{}<td{class}>{}",
            escape(&outcome.budget.what),
            escape(&outcome.budget.against),
            escape(&limit(&outcome.budget)),
            worst.map_or("not measured".into(), ratio),
            escape(&place),
            status(outcome)
        );
    }
    out.push_str("</table>\n");
}

/// Which thing, in words.
pub fn place(key: &Key) -> String {
    match key.x {
        Some(x) => format!("{}, {}, {x}", key.name, key.variant),
        None => format!("{}, {}", key.name, key.variant),
    }
}

/// A line for each name and variant that has more than one place. Of what is drawn by size there are
/// curves by number of pins as well, and the other way round: the variant tells.
fn lines(values: &BTreeMap<Key, Value>, names: &[&str], bytes: bool) -> Vec<Series> {
    let mut all: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (key, value) in values {
        let by_pins = key.variant.ends_with(", pins");
        let refused = key.name.ends_with("-refused");
        if !names.contains(&key.name.as_str()) || refused && bytes == by_pins {
            continue;
        }
        let Some(x) = key.x.filter(|x| *x > 0) else {
            continue;
        };
        let name = if names.len() > 1 {
            format!("{}, {}", key.name, key.variant)
        } else {
            key.variant.clone()
        };
        all.entry(name).or_default().push((x as f64, value.value));
    }
    all.into_iter()
        .filter(|(_, points)| points.len() > 1)
        .map(|(name, points)| Series { name, points })
        .collect()
}

fn values(out: &mut String, results: &Results) {
    let (base, series) = (results.of("base"), results.of("series"));
    out.push_str(
        "<h2>Every value</h2>\n<details><summary>Medians; spread is between boots</summary>\n\
         <table><tr><th>what<th>on<th>at<th>unit<th>base<th>spread<th>series<th>spread<th>ratio\n",
    );
    let keys: std::collections::BTreeSet<&Key> = base.keys().chain(series.keys()).collect();
    for key in keys {
        let cell = |value: Option<&Value>| match value {
            Some(v) => format!(
                "<td class=\"n\">{}<td class=\"n\">{:.2} %",
                v.value,
                v.spread * 100.0
            ),
            None => "<td><td>".into(),
        };
        let (b, s) = (base.get(key), series.get(key));
        let both = b.zip(s).map(|(b, s)| format!("{:.4}", s.value / b.value));
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{}<td class=\"n\">{}<td>{}{}{}<td class=\"n\">{}",
            escape(&key.name),
            escape(&key.variant),
            key.x.map_or(String::new(), |x| short(x as f64, false)),
            escape(results.unit(&key.name)),
            cell(b),
            cell(s),
            both.unwrap_or_default()
        );
    }
    out.push_str("</table></details>\n");
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::results;
    use super::*;

    #[test]
    fn the_page_stands_by_itself() {
        let results = results(&[
            ("base", "getppid", "-", None, 100.0),
            ("series", "getppid", "-", None, 100.0),
            ("series", "pin-unpin", "fsdax-4k", Some(4096), 30.0),
            ("series", "pin-unpin", "fsdax-4k", Some(8192), 60.0),
            ("series", "punch-refused", "xfs, pins", Some(1), 60.0),
            ("series", "punch-refused", "xfs, pins", Some(10), 60.0),
        ]);
        let page = page(&results, &[]);
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(page.contains("1.0000") && !page.contains("NaN"));
        for outside in ["<script", "<link", "src=", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
