// SPDX-License-Identifier: MIT OR Apache-2.0
//! JUnit XML. Written by hand: it is three elements, and a library for them brings six more.

use super::markup::escape;
use super::tally::Tally;
use super::Verdict;

/// The report as JUnit XML.
pub fn render(tally: &Tally) -> String {
    let (tests, failed, skipped) = (
        tally.cases.len(),
        tally.count(Verdict::Fail),
        tally.count(Verdict::Skip),
    );
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites tests=\"{tests}\" failures=\"{failed}\" skipped=\"{skipped}\">\n\
         <testsuite name=\"xtask\" tests=\"{tests}\" failures=\"{failed}\" skipped=\"{skipped}\">\n"
    );
    for c in &tally.cases {
        let (class, name) = c.name.split_once(": ").unwrap_or(("project", &c.name));
        out.push_str(&format!(
            "  <testcase classname=\"{}\" name=\"{}\"",
            escape(class),
            escape(name)
        ));
        let detail = escape(&c.detail.join("\n"));
        let first = escape(c.detail.first().map_or("", String::as_str));
        match c.verdict {
            Verdict::Pass => out.push_str("/>\n"),
            Verdict::Fail => out.push_str(&format!(
                ">\n    <failure message=\"{first}\">{detail}</failure>\n  </testcase>\n"
            )),
            Verdict::Skip => {
                out.push_str(&format!(
                    ">\n    <skipped message=\"{first}\"/>\n  </testcase>\n"
                ));
            }
        }
    }
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::Case;
    use super::*;

    #[test]
    fn report_is_well_formed() {
        let mut t = Tally::default();
        t.add([
            Case::new("kunit: a<b>", Verdict::Pass, vec![]),
            Case::new("x", Verdict::Fail, vec!["\"1\" & \u{1b}[31m2".into()]),
            Case::new("y", Verdict::Skip, vec!["no device".into()]),
        ]);
        let x = render(&t);
        assert!(x.contains("<testsuites tests=\"3\" failures=\"1\" skipped=\"1\">"));
        assert!(x.contains("classname=\"kunit\" name=\"a&lt;b&gt;\"/>"));
        assert!(x.contains("&quot;1&quot; &amp; \u{fffd}[31m2</failure>"));
        assert!(x.contains("<skipped message=\"no device\"/>"));
    }
}
