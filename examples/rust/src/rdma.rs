// SPDX-License-Identifier: MIT OR Apache-2.0
//! librdmacm and libibverbs, as build.rs finds them in their headers.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/rdma.rs"));
