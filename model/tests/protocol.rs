// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol keeps its promises, and the search would notice if it did not.

use model::check;
use model::diagram;
use model::document::{self, Caught};
use model::mutation::Mutation;
use model::property::Property;
use model::protocol::Protocol;
use model::scenario::Scenario;

/// With fewer calls: CI has more to do. `cargo run -p model --release` searches all.
#[test]
fn the_protocol_keeps_its_promises() {
    for scenario in Scenario::all() {
        let protocol = Protocol::new(scenario.shortened());
        let result = check::search(&protocol, 2);
        let name = protocol.scenario.name;
        if let Some((property, actions)) = result.broken {
            let drawn = diagram::sequence(&protocol, &actions, property);
            panic!("{name}: {property} is broken: {}\n{drawn}", property.says());
        }
        assert!(
            result.states > 1000,
            "{name}: only {} states",
            result.states
        );
    }
}

#[test]
fn each_planted_bug_is_caught_and_drawn() {
    let mut all = vec![];
    for mutation in Mutation::ALL {
        let result = check::catch(*mutation);
        let Some((property, actions)) = result.broken else {
            panic!("{mutation} breaks nothing in {} states", result.states);
        };
        assert_eq!(property, mutation.breaks(), "{mutation}");
        all.push(Caught {
            mutation: *mutation,
            property,
            actions,
        });
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../Documentation/model.md");
    let text = std::fs::read_to_string(path).expect("Documentation/model.md can be read");
    assert!(
        text.ends_with(&document::bugs(&all)),
        "Documentation/model.md is out of date: cargo run -p model --release -- --write"
    );
}

#[test]
fn each_promise_is_broken_by_some_bug() {
    for property in Property::ALL {
        let broken = Mutation::ALL.iter().any(|m| m.breaks() == *property);
        assert!(broken, "nothing shows that {property} is looked at");
    }
}
