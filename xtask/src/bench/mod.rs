// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `cargo xtask bench` makes of what was measured: budgets, tables and a page with plots.

pub mod budgets;
pub mod markdown;
pub mod page;
mod plot;
pub mod profile;
pub mod records;
