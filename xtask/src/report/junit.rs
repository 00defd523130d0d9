// SPDX-License-Identifier: MIT OR Apache-2.0
//! JUnit XML. Written by hand: it is three elements, and a library for them brings six more.

use super::markup::{attribute, escape};
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
            attribute(class),
            attribute(name)
        ));
        let detail = escape(&c.detail.join("\n"));
        let first = attribute(c.detail.first().map_or("", String::as_str));
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

#[cfg(test)]
mod properties {
    use super::super::Case;
    use super::*;
    use crate::properties::config;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn cases() -> impl Strategy<Value = Vec<Case>> {
        let text = || {
            let odd = select(
                &[
                    "]]>", "<!--", "&amp;", "\r\n", "\u{0}", "\u{b}", "\u{ffff}", ": ",
                ][..],
            );
            let piece = prop_oneof![odd.prop_map(str::to_string), any::<String>()];
            vec(piece, 0..4).prop_map(|pieces| pieces.concat())
        };
        let verdict = select(&[Verdict::Pass, Verdict::Fail, Verdict::Skip][..]);
        let case = (text(), verdict, vec(text(), 0..3)).prop_map(|(name, verdict, detail)| Case {
            name,
            verdict,
            detail,
        });
        vec(case, 0..5)
    }

    /// What XML can say of a text.
    fn sayable(text: &str) -> String {
        let said = |c: char| match c {
            '\n' | '\t' => c,
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => '\u{fffd}',
            c => c,
        };
        text.chars().map(said).collect()
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_parser_reads_every_case_back(cases in cases()) {
            let mut tally = Tally::default();
            tally.add(cases.clone());
            let text = render(&tally);
            let document = roxmltree::Document::parse(&text).unwrap();
            let suites = document.root_element();
            let number = |name: &str| suites.attribute(name).unwrap().parse::<usize>().unwrap();
            prop_assert_eq!(number("tests"), cases.len());
            prop_assert_eq!(number("failures"), tally.count(Verdict::Fail));
            prop_assert_eq!(number("skipped"), tally.count(Verdict::Skip));
            let read: Vec<_> = suites.descendants().filter(|n| n.has_tag_name("testcase")).collect();
            prop_assert_eq!(read.len(), cases.len());
            for (node, case) in read.iter().zip(&cases) {
                let value = |name: &str| node.attribute(name).unwrap();
                let (class, name) = case.name.split_once(": ").unwrap_or(("project", &case.name));
                prop_assert_eq!(value("classname"), sayable(class));
                prop_assert_eq!(value("name"), sayable(name));
                let child = |tag: &str| node.children().find(|n| n.has_tag_name(tag));
                let first = sayable(case.detail.first().map_or("", String::as_str));
                match case.verdict {
                    Verdict::Pass => prop_assert_eq!(node.children().count(), 0),
                    Verdict::Fail => {
                        let failure = child("failure").unwrap();
                        prop_assert_eq!(failure.attribute("message"), Some(&*first));
                        let text = sayable(&case.detail.join("\n"));
                        prop_assert_eq!(failure.text().unwrap_or_default(), text);
                    }
                    Verdict::Skip => {
                        prop_assert_eq!(child("skipped").unwrap().attribute("message"), Some(&*first));
                    }
                }
            }
        }
    }
}
