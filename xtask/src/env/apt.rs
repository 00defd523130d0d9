// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds the machine's Debian archive in its apt sources (both formats), for an apt configuration
//! of our own that adds another suite without touching the machine's.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// One archive of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The archive's URI.
    pub uri: String,
    /// Its suites.
    pub suites: Vec<String>,
    /// Its components.
    pub components: Vec<String>,
    /// The keyring file, when the entry names one.
    pub keyring: Option<String>,
}

const DEFAULT_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Parses a deb822 file (`*.sources`). Entries that are disabled or not `deb` are left out.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut out = vec![];
    let text: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    for stanza in text.split(|l| l.trim().is_empty()) {
        let mut fields: Vec<(String, String)> = vec![];
        for line in stanza {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((key, value)) = line.split_once(':') {
                fields.push((key.trim().to_ascii_lowercase(), value.trim().to_string()));
            }
        }
        let words = |name: &str| -> Vec<String> {
            let value = fields
                .iter()
                .find(|(k, _)| k == name)
                .map_or("", |(_, v)| v.as_str());
            value.split_whitespace().map(str::to_string).collect()
        };
        let enabled = words("enabled").first().is_none_or(|v| v != "no");
        if !enabled || !words("types").iter().any(|t| t == "deb") {
            continue;
        }
        // An embedded key (a multi-line Signed-By) is no file name.
        let keyring = words("signed-by")
            .into_iter()
            .next()
            .filter(|k| k.starts_with('/'));
        for uri in words("uris") {
            out.push(Source {
                uri: uri.trim_end_matches('/').to_string(),
                suites: words("suites"),
                components: words("components"),
                keyring: keyring.clone(),
            });
        }
    }
    out
}

/// Parses a one-line-style file (`sources.list`, `*.list`).
pub fn parse_one_line(text: &str) -> Vec<Source> {
    let mut out = vec![];
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|r| r.starts_with([' ', '\t']))
        else {
            continue;
        };
        let mut rest = rest.trim();
        let mut keyring = None;
        if let Some((options, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            keyring = options
                .split_whitespace()
                .find_map(|o| o.strip_prefix("signed-by="))
                .map(str::to_string);
            rest = after.trim();
        }
        let mut words = rest.split_whitespace().map(str::to_string);
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            out.push(Source {
                uri: uri.trim_end_matches('/').to_string(),
                suites: vec![suite],
                components: words.collect(),
                keyring,
            });
        }
    }
    out
}

/// The archive that carries Debian itself: component main, not security, not another vendor's.
pub fn pick(sources: &[Source]) -> Option<&Source> {
    const RELEASES: [&str; 8] = [
        "bookworm", "trixie", "forky", "duke", "stable", "testing", "unstable", "sid",
    ];
    sources.iter().find(|s| {
        let usable = ["http://", "https://", "file:", "mirror+"];
        s.components.iter().any(|c| c == "main")
            && usable.iter().any(|p| s.uri.starts_with(p))
            && s.suites
                .iter()
                .any(|suite| RELEASES.contains(&suite.as_str()))
    })
}

/// Reads the machine's configuration below `etc` (`/etc/apt`).
pub fn machine_sources(etc: &Path) -> Vec<Source> {
    let mut out = vec![];
    let mut files = vec![etc.join("sources.list")];
    if let Ok(dir) = fs::read_dir(etc.join("sources.list.d")) {
        files.extend(dir.flatten().map(|e| e.path()));
    }
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => out.extend(parse_one_line(&text)),
            Some("sources") => out.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    out
}

/// The `sources.list` of our own configuration: one suite, binary and source.
pub fn own_sources_list(etc: &Path, suite: &str) -> Result<String> {
    let sources = machine_sources(etc);
    let s = pick(&sources).with_context(|| {
        format!(
            "none of the apt sources in {} is Debian's main archive, so there is nowhere to get \
             {suite} from; use `cargo xtask source --from git` instead",
            etc.display()
        )
    })?;
    let keyring = s.keyring.as_deref().unwrap_or(DEFAULT_KEYRING);
    let uri = &s.uri;
    Ok(format!(
        "deb [signed-by={keyring}] {uri} {suite} main\n\
         deb-src [signed-by={keyring}] {uri} {suite} main\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# a comment inside a stanza
URIs: http://mirror.example/debian/
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/k.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
";

    #[test]
    fn deb822_is_read() {
        let s = parse_deb822(DEB822);
        assert_eq!(s.len(), 2);
        assert_eq!(s[0].uri, "http://mirror.example/debian");
        assert_eq!(s[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(s[0].keyring.as_deref(), Some("/usr/share/keyrings/k.gpg"));
        assert_eq!(pick(&s), Some(&s[0]));
    }

    #[test]
    fn one_line_format_is_read() {
        let s = parse_one_line(
            "# deb http://a.example x main\n\
             deb-src http://b.example bookworm main\n\
             deb http://c.example/debian-security bookworm-security main\n\
             deb [arch=amd64 signed-by=/k.gpg] https://d.example/debian bookworm main # why\n",
        );
        assert_eq!(s.len(), 2);
        assert_eq!(s[1].keyring.as_deref(), Some("/k.gpg"));
        assert_eq!(pick(&s).unwrap().uri, "https://d.example/debian");
    }

    #[test]
    fn other_vendors_are_not_debian() {
        let s = parse_one_line("deb https://packages.example/node nodistro main\n");
        assert_eq!(pick(&s), None);
    }

    #[test]
    fn own_list_derives_from_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        fs::write(dir.path().join("sources.list.d/debian.sources"), DEB822).unwrap();
        fs::write(dir.path().join("sources.list.d/x.sources.disabled"), "junk").unwrap();
        let list = own_sources_list(dir.path(), "trixie-backports").unwrap();
        assert!(list.contains(
            "deb-src [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian \
             trixie-backports main\n"
        ));
    }

    #[test]
    fn no_debian_archive_names_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let e = own_sources_list(dir.path(), "sid").unwrap_err().to_string();
        assert!(e.contains("--from git"), "{e}");
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn sources() -> impl Strategy<Value = Vec<Source>> {
        let words = || vec("[a-z]{1,6}(-[a-z]{1,6})?", 1..3);
        let source = (
            "https?://[a-z.]{1,9}/[a-z]{1,6}",
            words(),
            words(),
            proptest::option::of("/[a-z]{1,6}\\.gpg"),
        );
        let source = source.prop_map(|(uri, suites, components, keyring)| Source {
            uri,
            suites,
            components,
            keyring,
        });
        vec(source, 0..4)
    }

    fn deb822(sources: &[Source], gap: &str) -> String {
        let stanza = |s: &Source| {
            let key = s
                .keyring
                .as_ref()
                .map_or(String::new(), |k| format!("signed-by: {k}\n"));
            let (suites, components) = (s.suites.join("\n "), s.components.join(gap));
            format!("Types: deb\nURIs: {}/\nSuites:{gap}{suites}\n# x\nComponents:{gap}{components}\n{key}\n", s.uri)
        };
        sources.iter().map(stanza).collect()
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn both_formats_are_read_back(sources in sources(), gap in "[ \t]{1,3}") {
            prop_assert_eq!(&parse_deb822(&deb822(&sources, &gap)), &sources);
            prop_assert!(parse_deb822(&deb822(&sources, " ").replace("Types:", "Enabled: no\nTypes:")).is_empty());
            let mut text = String::new();
            let mut lines = vec![];
            for s in &sources {
                let option = s.keyring.as_ref().map_or(String::new(), |k| format!("[arch=x signed-by={k}]{gap}"));
                for suite in &s.suites {
                    text.push_str(&format!("deb{gap}{option}{}{gap}{suite}{gap}{} # x\n", s.uri, s.components.join(&gap)));
                    lines.push(Source { suites: vec![suite.clone()], ..s.clone() });
                }
            }
            prop_assert_eq!(parse_one_line(&text), lines);
            prop_assert!(parse_one_line(&text.replace("deb", "#deb")).is_empty());
        }

        #[test]
        fn what_is_picked_is_there_and_is_debians(sources in sources(), suite in "[a-z]{3,8}|bookworm|sid") {
            let mut sources = sources;
            if let Some(s) = sources.last_mut() {
                s.suites.push(suite);
                s.components.push("main".into());
            }
            if let Some(s) = pick(&sources) {
                prop_assert!(sources.contains(s) && s.components.iter().any(|c| c == "main"));
            }
        }

        #[test]
        fn noise_never_panics(text in noise(&[
            "Types: deb\n", "URIs:", "Suites:", "Enabled: no", "Signed-By:", "deb ", "deb-src ", "[",
            "]", "signed-by=", "http://x", " main\n", "\n\n", "\n ",
        ])) {
            parse_deb822(&text);
            pick(&parse_one_line(&text));
        }
    }
}
