// SPDX-License-Identifier: MIT OR Apache-2.0
//! Does each call end?
//!
//! A state in which nothing happens by itself although somebody is in a call is found by the search
//! itself. Here is the rest: a loop that does not lead out. `stateright` cannot find these, since
//! it does not tell a loop from two ways to the same state.
//!
//! From each state that can be reached there must be a way to a state where nobody is in a call,
//! by steps that happen by themselves: steps within calls, the end of transfers, the timeout of a
//! lease that is being broken. Nobody has to make a call for that. With every step that can be
//! taken being taken some day, each call ends then.

use crate::protocol::{Action, Protocol};
use crate::state::State;
use stateright::Model;
use std::collections::hash_map::Entry;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// The way to a state: from which one, and by what.
type Origin = Option<(u32, Action)>;

/// All states, by number, and the steps that happen by themselves.
pub struct Graph {
    /// How many steps lead to the farthest state.
    pub depth: usize,
    origins: Vec<Origin>,
    /// Nobody is in a call.
    calm: Vec<bool>,
    /// From, to.
    edges: Vec<(u32, u32)>,
}

impl Graph {
    /// Walks through all states.
    pub fn of(protocol: &Protocol) -> Self {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        // A fingerprint stands for a state, as in stateright itself.
        let mut numbers: HashMap<u64, u32> = HashMap::new();
        let mut graph = Self {
            depth: 0,
            origins: vec![],
            calm: vec![],
            edges: vec![],
        };
        let mut level: Vec<(u32, State)> = vec![];
        for state in protocol.init_states() {
            let number = graph.add(&state, None);
            numbers.insert(hasher.hash_one(&state), number);
            level.push((number, state));
        }
        let (mut forced, mut all) = (vec![], vec![]);
        while !level.is_empty() {
            let mut next = vec![];
            for (from, state) in level {
                forced.clear();
                all.clear();
                protocol.by_itself(&state, &mut forced);
                protocol.actions(&state, &mut all);
                for action in &all {
                    let (after, _) = protocol.perform(&state, *action);
                    let to = match numbers.entry(hasher.hash_one(&after)) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => {
                            let number = graph.add(&after, Some((from, *action)));
                            new.insert(number);
                            next.push((number, after));
                            number
                        }
                    };
                    if forced.contains(action) {
                        graph.edges.push((from, to));
                    }
                }
            }
            graph.depth += usize::from(!next.is_empty());
            level = next;
        }
        graph
    }

    /// Returns how many states there are.
    pub fn states(&self) -> usize {
        self.calm.len()
    }

    /// Returns a way to a state from which nothing leads to the end of all calls.
    pub fn trap(&self) -> Option<Vec<Action>> {
        let mut at = self.first_trapped()?;
        let mut actions = vec![];
        while let Some((from, action)) = self.origins[at as usize] {
            actions.push(action);
            at = from;
        }
        actions.reverse();
        Some(actions)
    }

    fn add(&mut self, state: &State, origin: Origin) -> u32 {
        self.origins.push(origin);
        self.calm.push(!Protocol::in_call(state));
        u32::try_from(self.origins.len() - 1).expect("fewer than four billion states")
    }

    /// Returns the first state, nearest to the beginning, from which no calm one can be reached.
    fn first_trapped(&self) -> Option<u32> {
        // Edges into each state, one after the other.
        let mut starts = vec![0u32; self.calm.len() + 1];
        for (_, to) in &self.edges {
            starts[*to as usize + 1] += 1;
        }
        for n in 1..starts.len() {
            starts[n] += starts[n - 1];
        }
        let mut fill = starts.clone();
        let mut sources = vec![0u32; self.edges.len()];
        for (from, to) in &self.edges {
            sources[fill[*to as usize] as usize] = *from;
            fill[*to as usize] += 1;
        }

        let mut good = self.calm.clone();
        let count = u32::try_from(good.len()).expect("fewer than four billion states");
        let mut todo: Vec<u32> = (0..count).filter(|n| good[*n as usize]).collect();
        while let Some(to) = todo.pop() {
            let edges = starts[to as usize] as usize..starts[to as usize + 1] as usize;
            for from in &sources[edges] {
                if !good[*from as usize] {
                    good[*from as usize] = true;
                    todo.push(*from);
                }
            }
        }
        (0..count).find(|n| !good[*n as usize])
    }
}
