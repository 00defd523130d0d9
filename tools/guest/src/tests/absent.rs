// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel that has not got the feature, or has it switched off: it refuses what it does not know,
//! and everything else is as it always was.

use super::env::{getlease_is, lease_is, must_be, op_is, Env, PINNED, SIZE, UNLCK};
use super::{tests, Test};
use crate::ops::{ADDITIVE, SUBTRACTIVE};
use crate::setup::Fs;
use crate::trial::Expect;
use anyhow::ensure;
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut list = tests![
        no_layout_lease,
        plain_leases,
        no_pin_of_a_dax_file,
        other_memory,
        nothing_to_list,
    ];
    for op in SUBTRACTIVE
        .into_iter()
        .chain(ADDITIVE)
        .filter(|op| op.exists_on(fs))
    {
        list.push(Test::new(format!("works.{}", op.slug()), move |env| {
            let files = env.pair()?;
            let mut anybody = env.worker()?;
            op_is(
                &mut anybody,
                op,
                &files,
                PINNED,
                Expect::Succeeds,
                "anybody",
            )
        }));
    }
    list
}

fn no_layout_lease(env: &Env) -> anyhow::Result<()> {
    let mut who = env.worker()?;
    who.open("file", &env.file()?)?;
    for kind in [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK] {
        for flags in [F_LAYOUT, F_EXCLUSIVE, F_LAYOUT | F_EXCLUSIVE] {
            let argument = kind | flags;
            lease_is(&mut who, "file", argument, libc::EINVAL, "an unknown flag")?;
        }
    }
    getlease_is(&mut who, "file", UNLCK, "after all of them")
}

fn plain_leases(env: &Env) -> anyhow::Result<()> {
    let mut who = env.worker()?;
    who.open("file", &env.file()?)?;
    lease_is(&mut who, "file", libc::F_WRLCK, 0, "a plain lease")?;
    getlease_is(&mut who, "file", libc::F_WRLCK, "the plain lease")?;
    lease_is(&mut who, "file", UNLCK, 0, "its release")?;
    getlease_is(&mut who, "file", UNLCK, "after the release")
}

fn no_pin_of_a_dax_file(env: &Env) -> anyhow::Result<()> {
    let path = env.file()?;
    let mut who = env.verbs()?;
    who.open("file", &path)?;
    who.map_shared("map", "file", SIZE)?;
    let reply = who.reg("mr", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, libc::EOPNOTSUPP, "registering pages of a DAX file")
}

fn other_memory(env: &Env) -> anyhow::Result<()> {
    let mut who = env.verbs()?;
    who.map_anonymous("map", SIZE)?;
    must_be(
        &who.reg("mr", "map", PINNED.offset, PINNED.length)?,
        0,
        "registering anonymous memory",
    )?;
    must_be(&who.dereg("mr")?, 0, "deregistering it")
}

fn nothing_to_list(_: &Env) -> anyhow::Result<()> {
    for path in ["/proc/self/file_pins", "/proc/file_pins"] {
        ensure!(!std::path::Path::new(path).exists(), "there is a {path}");
    }
    Ok(())
}
