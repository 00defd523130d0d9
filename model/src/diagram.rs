// SPDX-License-Identifier: MIT OR Apache-2.0
//! Draws a way through the states as a sequence diagram.

use crate::property::Property;
use crate::protocol::{Action, Protocol};
use crate::state::State;
use stateright::Model;
use std::fmt::Write;

/// Who takes a step: the name of the lane, and its title.
fn lane(protocol: &Protocol, action: Action) -> (String, String) {
    let process = |n: u8| {
        let role = &protocol.scenario.roles[usize::from(n)];
        (format!("P{n}"), format!("{n}: {}", role.name))
    };
    let kernel = || ("K".to_string(), "kernel".to_string());
    match action {
        Action::Call(n, _) | Action::Step(n) | Action::Kill(n) => process(n),
        Action::Close(n) | Action::Release(n) | Action::Dma(n, _) => {
            (format!("R{n}"), format!("region of uverbs file {n}"))
        }
        Action::WritebackBegin(_) | Action::Writeback => ("W".to_string(), "writeback".to_string()),
        Action::InvalidationBegin(_) | Action::Invalidation => {
            ("I".to_string(), "invalidation".to_string())
        }
        Action::RemoveLease(_)
        | Action::TimeOut(_)
        | Action::Evict
        | Action::Unbind
        | Action::Unmap
        | Action::Unlink => kernel(),
    }
}

/// Says what a step was.
fn text(action: Action, says: &str) -> String {
    match action {
        Action::Call(_, op) => op.to_string(),
        Action::WritebackBegin(range) | Action::InvalidationBegin(range) => {
            format!("{says}, range {range}")
        }
        Action::Dma(_, range) => format!("{says} to range {range}"),
        _ => says.to_string(),
    }
}

/// Draws the way as a Mermaid diagram. Its end is what breaks the promise.
pub fn sequence(protocol: &Protocol, actions: &[Action], broken: Property) -> String {
    let mut state: State = protocol.init_states().remove(0);
    let mut lanes: Vec<(String, String)> = vec![];
    let mut steps = String::new();
    for action in actions {
        let (after, says) = protocol.perform(&state, *action);
        let lane = lane(protocol, *action);
        let begins = matches!(action, Action::Call(..));
        let arrow = if begins { "->>" } else { "-->>" };
        let _ = writeln!(steps, "    {0}{arrow}{0}: {1}", lane.0, text(*action, says));
        if !lanes.contains(&lane) {
            lanes.push(lane);
        }
        state = after;
    }
    lanes.sort();
    let mut diagram = String::from("```mermaid\nsequenceDiagram\n");
    for (name, title) in &lanes {
        let _ = writeln!(diagram, "    participant {name} as {title}");
    }
    diagram.push_str(&steps);
    let over = match (lanes.first(), lanes.last()) {
        (Some(first), Some(last)) if first != last => format!("{},{}", first.0, last.0),
        (Some(first), _) => first.0.clone(),
        _ => return String::new(),
    };
    let end = if state.flaws & broken.bit() != 0 {
        ""
    } else {
        ", nothing leads out of this"
    };
    let _ = writeln!(diagram, "    Note over {over}: {broken} is broken{end}");
    diagram.push_str("```\n");
    diagram
}
