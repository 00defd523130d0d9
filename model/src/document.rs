// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes Documentation/model.md.

use crate::diagram;
use crate::mutation::Mutation;
use crate::property::Property;
use crate::protocol::{Action, Protocol};
use crate::scenario::Scenario;
use std::fmt::Write;

/// The page, with marks where results go.
const TEMPLATE: &str = include_str!("template.md");

/// A scenario that has been searched.
pub struct Searched {
    /// The scenario.
    pub scenario: Scenario,
    /// How many states there are.
    pub states: usize,
    /// How many steps lead to the farthest one.
    pub depth: usize,
}

/// A planted bug, the promise that it has broken, and the way there.
pub struct Caught {
    /// The planted bug.
    pub mutation: Mutation,
    /// The promise.
    pub property: Property,
    /// The steps.
    pub actions: Vec<Action>,
}

/// Writes an integer in groups of three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Renders the document.
pub fn render(searched: &[Searched], caught: &[Caught]) -> String {
    TEMPLATE
        .replace("{promises}", &promises())
        .replace("{results}", &results(searched))
        .replace("{bugs}", &bugs(caught))
}

/// Renders the promises.
fn promises() -> String {
    Property::ALL
        .iter()
        .map(|p| format!("| {p} | {} |\n", p.says()))
        .collect()
}

/// Renders what the search of each scenario has found.
fn results(searched: &[Searched]) -> String {
    let mut out = String::from(
        "## Result\n\nAll promises hold in all states.\n\n\
         | scenario | about | states | farthest |\n|---|---|---:|---:|\n",
    );
    for s in searched {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} steps |",
            s.scenario.name,
            s.scenario.about,
            grouped(s.states),
            s.depth
        );
    }
    let total = searched.iter().map(|s| s.states).sum();
    let _ = writeln!(out, "| all | | {} | |", grouped(total));
    out
}

/// Renders the planted bugs, each with the shortest way to the promise that it breaks.
pub fn bugs(caught: &[Caught]) -> String {
    let mut out = String::from(
        "## Planted bugs\n\nEach is planted into the model, and the search finds a way to the promise that it breaks. The\n\
         diagrams are these ways, none of which can be shorter. A solid arrow is a call, a dashed one a\n\
         step.\n\n| bug | promise | scenario | steps |\n|---|---|---|---:|\n",
    );
    for c in caught {
        let _ = writeln!(
            out,
            "| [{}](#{}) | {} | {} | {} |",
            c.mutation.says(),
            c.mutation.name().to_lowercase(),
            c.property,
            c.mutation.scenario(),
            c.actions.len()
        );
    }
    for c in caught {
        let protocol = Protocol::mutated(c.mutation);
        let _ = write!(
            out,
            "\n### {}\n\n{}.\n\n{}",
            c.mutation.name(),
            c.mutation.says(),
            diagram::sequence(&protocol, &c.actions, c.property)
        );
    }
    out
}
