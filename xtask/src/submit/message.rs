// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules for the message of a commit.

use super::commits::Commit;
use super::finding::{Finding, MESSAGE};

/// The longest subject and the longest line of text.
const COLUMNS: usize = 75;

/// Words that look like another form of a verb and are the imperative.
const IMPERATIVE: &[&str] = &[
    "access", "address", "bless", "bring", "bypass", "compress", "cross", "discuss", "dismiss",
    "embed", "exceed", "express", "feed", "focus", "guess", "miss", "need", "pass", "ping",
    "press", "process", "seed", "shed", "speed", "string", "suppress", "toss", "witness",
];

/// Holds a message against the rules.
pub fn check(commit: &Commit) -> Vec<Finding> {
    let mut out = vec![];
    let mut say = |rule: &str, line: usize, text: String| {
        out.push(
            Finding::new(commit.number, format!("message:{rule}"), MESSAGE, text).at(Some(line)),
        );
    };
    let subject = &commit.subject;
    let width = subject.chars().count();
    if width > COLUMNS {
        say(
            "subject",
            1,
            format!("the subject has {width} columns, more than {COLUMNS}"),
        );
    }
    if subject.ends_with('.') {
        say("subject", 1, "the subject ends with a full stop".into());
    }
    match subject.rsplit_once(": ") {
        Some((prefix, what)) if !prefix.is_empty() && !what.trim().is_empty() => {
            let verb = what.split_whitespace().next().unwrap_or_default();
            if !imperative(verb) {
                say("subject", 1, format!("{verb:?} is not the imperative"));
            }
        }
        _ => say(
            "subject",
            1,
            "the subject has no prefix (`subsystem: do this`)".into(),
        ),
    }
    let (text, trailers) = split_trailers(&commit.body);
    if text.is_empty() {
        say("body", 3, "nothing says why".into());
    }
    for (i, line) in commit.body.lines().enumerate() {
        let at = i + 3;
        if line.starts_with("Fixes:") && !is_fixes(line) {
            say(
                "fixes",
                at,
                format!("not `Fixes: 123456789abc (\"subject\")`: {line}"),
            );
        } else if misspelt_tag(line) {
            say("trailer", at, format!("a misspelt tag? {line}"));
        }
    }
    for tag in ["Fixes:", "Link:", "Closes:"] {
        if text.iter().any(|l| l.starts_with(tag)) {
            say("trailer", 3, format!("{tag} is not in the last paragraph"));
        }
    }
    for line in &trailers {
        if line.ends_with(' ') {
            say("trailer", 3, format!("a blank at the end of {line:?}"));
        }
    }
    out
}

/// Is it the form that an order is given in? Only what is certainly another form is told.
fn imperative(verb: &str) -> bool {
    let verb = verb.to_ascii_lowercase();
    if !verb.bytes().all(|b| b.is_ascii_lowercase()) || IMPERATIVE.contains(&verb.as_str()) {
        return true;
    }
    !(verb.ends_with("ed") || verb.ends_with("ing") || verb.ends_with('s'))
}

/// The body without the paragraph of trailers at its end, and that.
fn split_trailers(body: &str) -> (Vec<&str>, Vec<&str>) {
    let lines: Vec<&str> = body.lines().collect();
    let last = lines
        .iter()
        .rposition(|l| l.trim().is_empty())
        .map_or(0, |i| i + 1);
    let (text, end) = lines.split_at(last);
    if !end.is_empty() && end.iter().all(|l| is_known_trailer(l)) {
        let text = text.iter().copied().filter(|l| !l.trim().is_empty());
        return (text.collect(), end.to_vec());
    }
    let text = lines.into_iter().filter(|l| !l.trim().is_empty());
    (text.collect(), vec![])
}

/// `Some-tag: value`.
pub fn is_trailer(line: &str) -> bool {
    let Some((tag, value)) = line.split_once(": ") else {
        return false;
    };
    tag.starts_with(|c: char| c.is_ascii_uppercase())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !value.trim().is_empty()
}

/// A trailer of those in use: a sentence can begin with a word and a colon as well.
fn is_known_trailer(line: &str) -> bool {
    const TAGS: [&str; 6] = ["Cc", "Closes", "Fixes", "Link", "Message-ID", "To"];
    let tag = line.split(':').next().unwrap_or_default();
    is_trailer(line) && (tag.ends_with("-by") || TAGS.contains(&tag))
}

/// `Fixes: ` with 12 digits or more and the subject in quotes.
fn is_fixes(line: &str) -> bool {
    let Some((hash, subject)) = line
        .strip_prefix("Fixes: ")
        .and_then(|rest| rest.split_once(' '))
    else {
        return false;
    };
    (12..=40).contains(&hash.len())
        && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && subject.len() > 4
        && subject.starts_with("(\"")
        && subject.ends_with("\")")
}

fn misspelt_tag(line: &str) -> bool {
    let Some((tag, _)) = line.split_once(':') else {
        return false;
    };
    let lower = tag.to_ascii_lowercase();
    let right = match lower.as_str() {
        "fixes" => "Fixes",
        "closes" => "Closes",
        "link" => "Link",
        "cc" => "Cc",
        "signed-off-by" => "Signed-off-by",
        "reported-by" => "Reported-by",
        "reviewed-by" => "Reviewed-by",
        "acked-by" => "Acked-by",
        "tested-by" => "Tested-by",
        "suggested-by" => "Suggested-by",
        _ => return false,
    };
    tag != right
}

#[cfg(test)]
mod tests {
    use super::super::commits::tests::commit;
    use super::*;

    fn rules(subject: &str, body: &str) -> Vec<String> {
        check(&commit(1, subject, body))
            .into_iter()
            .map(|f| {
                format!(
                    "{} {}",
                    f.rule.trim_start_matches("message:"),
                    f.line.unwrap()
                )
            })
            .collect()
    }

    #[test]
    fn good_messages_pass() {
        let none: [&str; 0] = [];
        assert_eq!(rules("mm: add x", "It is missing."), none);
        assert_eq!(
            rules("RDMA/rxe, RDMA/siw: pass the owner", "Why: because."),
            none
        );
        let body = "It fails.\n\nFixes: c5967721e106 (\"NFSD: handle GETATTR\")\nCc: stable@vger.kernel.org";
        assert_eq!(rules("nfsd: skip every lease", body), none);
    }

    #[test]
    fn bad_subjects_are_told() {
        let long = format!("mm: add {}", "x".repeat(70));
        assert_eq!(rules(&long, "Why."), ["subject 1"]);
        for s in [
            "add x",
            "mm: added x",
            "mm: adding x",
            "mm: adds x",
            "mm: add x.",
            "mm: ",
        ] {
            assert_eq!(rules(s, "Why."), ["subject 1"], "{s}");
        }
    }

    #[test]
    fn trailers_alone_are_no_body() {
        assert_eq!(rules("mm: add x", ""), ["body 3"]);
        assert_eq!(rules("mm: add x", "Cc: x@y.z"), ["body 3"]);
    }

    #[test]
    fn tags_must_be_right() {
        for bad in [
            "Fixes: c5967721 (\"too short\")",
            "Fixes: c5967721e106 NFSD: no quotes",
            "Fixes: C5967721E106 (\"upper case\")",
            "fixes: c5967721e106 (\"x y\")",
        ] {
            let found = rules("mm: add x", &format!("Why.\n\n{bad}"));
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            assert!(found[0].ends_with(" 5"), "{bad}: {found:?}");
        }
        let early = "Fixes: c5967721e106 (\"x y\")\n\nThen text.";
        assert_eq!(rules("mm: add x", early), ["trailer 3"]);
    }
}

#[cfg(test)]
mod properties {
    use super::super::commits::tests::commit;
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn what_is_right_is_not_told(
            prefix in "[a-z]{2,6}(/[a-z]{2,6})?",
            lines in vec("[A-Z][a-z]{2,9} [a-z ]{0,40}[a-z]", 1..4),
            hash in "[0-9a-f]{12}",
        ) {
            let body = format!("{}\n\nFixes: {hash} (\"x: y\")\nCc: a@b.c", lines.join("\n"));
            prop_assert_eq!(check(&commit(1, &format!("{prefix}: add a check"), &body)), vec![]);
        }

        #[test]
        fn every_finding_is_on_a_line_of_the_message(
            subject in "[ -~]{0,90}",
            body in noise(&["Fixes: ", "fixes: ", "0123456789ab ", "(\"x\")", "Cc: a@b", "\n\n", "\n", "Why."]),
        ) {
            for f in check(&commit(1, &subject, &body)) {
                let line = f.line.unwrap();
                prop_assert!(line == 1 || (3..body.lines().count().max(1) + 3).contains(&line));
            }
        }

        #[test]
        fn text_and_trailers_are_all_there_is(body in noise(&["Cc: a@b", "\n\n", "\n", "Text: is text", "Link: x"])) {
            let (text, trailers) = split_trailers(&body);
            let lines = body.lines().filter(|l| !l.trim().is_empty());
            prop_assert!(text.into_iter().chain(trailers).eq(lines));
        }
    }
}
