// SPDX-License-Identifier: MIT OR Apache-2.0
//! Searches a scenario.

use crate::liveness::Graph;
use crate::mutation::Mutation;
use crate::property::Property;
use crate::protocol::{Action, Protocol};
use stateright::{Checker, HasDiscoveries, Model};

/// What a search has found.
#[derive(Debug)]
pub struct Result {
    /// How many states there are.
    pub states: usize,
    /// How many steps the longest of the shortest ways to a state has.
    pub depth: usize,
    /// A way to a broken promise, if there is one.
    pub broken: Option<(Property, Vec<Action>)>,
}

/// Looks at each state that can be reached, and whether each call ends.
pub fn search(protocol: &Protocol, threads: usize) -> Result {
    let checker = protocol
        .clone()
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    for property in Property::ALL {
        if let Some(path) = checker.discovery(property.name()) {
            return Result {
                states,
                depth: checker.max_depth(),
                broken: Some((*property, path.into_actions())),
            };
        }
    }
    if protocol.promises & Property::CallsEnd.bit() == 0 {
        return Result {
            states,
            depth: checker.max_depth(),
            broken: None,
        };
    }
    let graph = Graph::of(protocol);
    assert_eq!(graph.states(), states, "both searches see the same states");
    Result {
        states,
        depth: graph.depth,
        broken: graph.trap().map(|actions| (Property::CallsEnd, actions)),
    }
}

/// Searches for the promise that a planted bug breaks. One thread, so that the way is the same each
/// time.
pub fn catch(mutation: Mutation) -> Result {
    search(&Protocol::mutated(mutation), 1)
}
