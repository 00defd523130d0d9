// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manual pages are written by hand; here they are held against the program.

use crate::Cli;
use clap::{Command, CommandFactory};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man")
}

fn page(name: &str) -> String {
    let path = directory().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every key of this JSON must have an entry in the page.
pub fn documents(name: &str, json: &serde_json::Value) {
    let page = page(name);
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix(".It Va "))
        .flat_map(|rest| rest.split(" , "))
        .map(|word| word.trim_start_matches("Va "))
        .collect();
    let mut keys = BTreeSet::new();
    collect(json, &mut keys);
    for key in keys {
        assert!(documented.contains(key), "{name} does not document {key:?}");
    }
}

fn collect<'a>(json: &'a serde_json::Value, keys: &mut BTreeSet<&'a str>) {
    if let Some(object) = json.as_object() {
        for (key, value) in object {
            keys.insert(key);
            collect(value, keys);
        }
    }
    for value in json.as_array().into_iter().flatten() {
        collect(value, keys);
    }
}

/// The long options in the synopsis and the list of a page.
fn described(page: &str) -> BTreeSet<String> {
    let mut words = page.split_ascii_whitespace();
    let mut found = BTreeSet::new();
    while let Some(word) = words.next() {
        if word == "Fl" || word == ".Fl" {
            let option = words.next().and_then(|option| option.strip_prefix('-'));
            // A bare `--` is no option.
            found.extend(
                option
                    .filter(|option| !option.is_empty())
                    .map(str::to_owned),
            );
        }
    }
    found
}

fn options(command: &Command) -> BTreeSet<String> {
    command
        .get_arguments()
        .filter_map(|argument| argument.get_long().map(str::to_owned))
        .filter(|option| option != "help" && option != "version")
        .collect()
}

#[test]
fn every_command_has_a_page_with_its_options_and_no_others() {
    let mut cli = Cli::command();
    cli.build();
    let mut pages = BTreeSet::from(["daxpin.1".to_owned()]);
    for command in cli
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
    {
        let name = format!("daxpin-{}.1", command.get_name());
        let text = page(&name);
        assert_eq!(described(&text), options(command), "{name}");
        assert!(page("daxpin.1").contains(&format!(".Xr daxpin-{} 1", command.get_name())));
        for argument in command.get_positionals() {
            for value in argument.get_value_names().into_iter().flatten() {
                for word in value.split('|') {
                    let word = word.to_lowercase();
                    assert!(text.contains(&format!("Ar {word}")), "{name}: {word}");
                }
            }
        }
        pages.insert(name);
    }
    let there: BTreeSet<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(there, pages);
}

#[test]
fn exit_statuses_are_those_of_the_program() {
    use crate::exit::{ERROR, NO, UNKNOWN, YES};
    for name in ["daxpin-ls.1", "daxpin-why.1", "daxpin-probe.1"] {
        let text = page(name);
        for status in [YES, ERROR, UNKNOWN] {
            assert!(
                text.contains(&format!("\n.It {status}\n")),
                "{name}: {status}"
            );
        }
        assert_eq!(
            text.contains(&format!("\n.It {NO}\n")),
            name != "daxpin-ls.1",
            "{name}"
        );
    }
    assert!(page("daxpin-lease.1").contains(&format!("\n.It {}\n", crate::lease::FAILED)));
}
