// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the contract: one group for each area and filesystem, each test on files of its own.

mod absent;
mod additive;
mod breaking;
mod crowd;
mod env;
mod events;
mod examples;
mod held;
mod holding;
mod hostile;
mod large;
mod launcher;
mod layout;
mod lease;
mod lifetime;
mod listing;
mod loss;
mod ls;
mod mounts;
mod mpi;
mod names;
mod namespaces;
mod nfs;
mod nfs_changes;
mod pins;
mod probe;
mod rdma;
mod regions;
mod ring;
mod ring_data;
mod ring_life;
mod ring_pins;
mod sharing;
mod stacked;
mod stress;
mod tool;
mod transient;
mod unsupported;
mod why;

pub use additive::placed;

use crate::client::Client;
use crate::ktap::{Outcome, Writer};
use crate::kunit::glob;
use crate::protocol::Request;
use crate::setup::Fs;
use env::{Env, Skip};
use std::path::PathBuf;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a test may take in all; each request has its own, shorter limit.
const LIMIT: Duration = Duration::from_secs(180);

/// Which tests, and where the results go.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the results go, as KTAP
    #[arg(long, value_name = "FILE")]
    ktap: PathBuf,
    /// Only tests whose area.fs.name matches, more than once for several; `*` stands for anything.
    /// Without a filter some areas are tested on one filesystem only
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Which filesystem, more than once for several [default: xfs and ext4]
    #[arg(long, value_enum)]
    fs: Vec<Fs>,
    /// The tool for administrators [default: beside this program]
    #[arg(long, value_name = "PATH")]
    daxpin: Option<PathBuf>,
    /// The kernel has not got the feature: test that it is as it always was
    #[arg(long)]
    without_feature: bool,
    /// Where the examples were built [default: beside this program]
    #[arg(long, value_name = "DIR")]
    examples: Option<PathBuf>,
    /// Print the tests' names and end
    #[arg(long)]
    list: bool,
}

type Check = Arc<dyn Fn(&Env) -> anyhow::Result<()> + Send + Sync>;

/// A test and its name.
struct Test {
    name: String,
    /// What the contract says, for the test of an operation (the name's second word) in a state of the
    /// file (the first).
    expects: Option<String>,
    check: Check,
}

impl Test {
    fn new(
        name: impl Into<String>,
        check: impl Fn(&Env) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Test {
        Test {
            name: name.into(),
            expects: None,
            check: Arc::new(check),
        }
    }

    /// A cell of the matrix: operations by states.
    fn cell(
        name: impl Into<String>,
        expects: impl Into<String>,
        check: impl Fn(&Env) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Test {
        Test {
            expects: Some(expects.into()),
            ..Test::new(name, check)
        }
    }
}

/// What is known of a test without running it.
pub struct Listed {
    /// The area of the contract.
    pub area: &'static str,
    /// The filesystem.
    pub fs: Fs,
    /// The test's own name.
    pub name: String,
    /// What the contract says, for a cell of the matrix.
    pub expects: Option<String>,
}

/// Every test there is, in the order they run.
pub fn list() -> Vec<Listed> {
    let mut list = Vec::new();
    for fs in Fs::ALL {
        for (area, tests) in AREAS {
            list.extend(tests(fs).into_iter().map(|test| Listed {
                area,
                fs,
                name: test.name,
                expects: test.expects,
            }));
        }
    }
    list
}

/// Whether a process gets this signal within the time.
fn signalled(holder: &mut Client, signal: i32, milliseconds: u64) -> anyhow::Result<bool> {
    let reply = holder.must(Request::WaitSignal {
        signal,
        milliseconds,
    })?;
    Ok(reply.value == i64::from(signal))
}

/// A list of tests from functions, each under its own name.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::tests::Test::new(stringify!($name), $name)),*]
    };
}
use tests;

/// An area of the contract, and its tests on a filesystem.
type Area = (&'static str, fn(Fs) -> Vec<Test>);

/// Areas in which no filesystem has a part but that the file is on one. A run that leaves out nothing
/// by name tests them on the one that is named here, for time's sake.
const ON_ONE: &[(&str, Fs)] = &[
    ("rdma", Fs::Xfs),
    ("ring_life", Fs::Xfs),
    ("names", Fs::Ext4),
    ("listing", Fs::Ext4),
    ("namespaces", Fs::Ext4),
    ("ls", Fs::Ext4),
    ("why", Fs::Ext4),
    ("hostile", Fs::Ext4),
    ("mpi", Fs::Xfs),
];

impl Options {
    /// The area's tests that are to be run on the filesystem.
    fn choose(&self, area: &Area, fs: Fs) -> Vec<Test> {
        let &(name, tests) = area;
        let elsewhere = |&(one, on): &(&str, Fs)| one == name && on != fs;
        let mut tests = tests(fs);
        if !self.filter.is_empty() {
            tests.retain(|t| {
                let name = format!("{name}.{}.{}", fs.name(), t.name);
                self.filter.iter().any(|filter| glob(filter, &name))
            });
        } else if ON_ONE.iter().any(elsewhere) {
            tests.clear();
        }
        tests
    }
}

const AREAS: &[Area] = &[
    ("lease", lease::tests),
    ("holding", holding::tests),
    ("breaking", breaking::tests),
    ("pins", pins::tests),
    ("regions", regions::tests),
    ("rdma", rdma::tests),
    ("lifetime", lifetime::tests),
    ("ring_pins", ring_pins::tests),
    ("ring_life", ring_life::tests),
    ("ring_data", ring_data::tests),
    ("layout", layout::tests),
    ("transient", transient::tests),
    ("additive", additive::tests),
    ("unsupported", unsupported::tests),
    ("sharing", sharing::tests),
    ("large", large::tests),
    ("names", names::tests),
    ("mounts", mounts::tests),
    ("events", events::tests),
    ("loss", loss::tests),
    ("listing", listing::tests),
    ("namespaces", namespaces::tests),
    ("launcher", launcher::tests),
    ("nfs", nfs::tests),
    ("nfs_changes", nfs_changes::tests),
    ("ls", ls::tests),
    ("why", why::tests),
    ("probe", probe::tests),
    ("examples", examples::tests),
    ("hostile", hostile::tests),
    ("mpi", mpi::tests),
    ("stacked", stacked::tests),
    ("stress", stress::tests),
];

/// What is tested instead on a kernel without the feature.
const AREAS_WITHOUT: &[Area] = &[("absent", absent::tests)];

/// Runs what the filter leaves; whether nothing failed.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let chosen = if options.fs.is_empty() {
        &Fs::ALL[..]
    } else {
        &options.fs
    };
    let areas = if options.without_feature {
        AREAS_WITHOUT
    } else {
        AREAS
    };
    let mut groups = Vec::new();
    for &fs in chosen {
        for area in areas {
            let tests = options.choose(area, fs);
            if !tests.is_empty() {
                groups.push((fs, format!("{}.{}", area.0, fs.name()), tests));
            }
        }
    }
    anyhow::ensure!(!groups.is_empty(), "no test matches the filter");
    if options.list {
        for (_, group, tests) in &groups {
            for test in tests {
                println!("{group}.{}", test.name);
            }
        }
        return Ok(true);
    }
    let beside = std::env::current_exe()?;
    let daxpin = options.daxpin.clone();
    let daxpin = daxpin.unwrap_or_else(|| beside.with_file_name("daxpin"));
    let examples = options.examples.clone();
    let examples = examples.unwrap_or_else(|| beside.with_file_name(""));
    let mut writer = Writer::create(&options.ktap, groups.len())?;
    let mut env: Option<Arc<Env>> = None;
    for (fs, group, tests) in groups {
        if env.as_ref().is_none_or(|env| env.fs != fs) {
            // The one before is unmounted first: its tests are over.
            drop(env.take());
            env = Some(Arc::new(Env::new(fs, daxpin.clone(), examples.clone())?));
        }
        let Some(env) = &env else { continue };
        writer.begin(&group, tests.len())?;
        for test in tests {
            let begun = Instant::now();
            let outcome = bounded(env, &test);
            env.clean();
            let (word, why) = match &outcome {
                Outcome::Pass => ("ok  ", ""),
                Outcome::Skip(why) => ("skip", why.as_str()),
                Outcome::Fail(why) => ("FAIL", why.as_str()),
            };
            let seconds = begun.elapsed().as_secs_f64();
            println!("{word} {seconds:6.2} {group}.{} {why}", test.name);
            writer.test(&test.name, &outcome)?;
        }
        writer.end(&group)?;
    }
    let (passed, failed, skipped) = writer.totals;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0)
}

/// Runs a test in a thread of its own, which is left behind should it never end.
fn bounded(env: &Arc<Env>, test: &Test) -> Outcome {
    let (sender, receiver) = channel();
    let (thread_env, check) = (env.clone(), test.check.clone());
    std::thread::spawn(move || {
        let result = check(&thread_env);
        drop(thread_env);
        let _ = sender.send(result);
    });
    match receiver.recv_timeout(LIMIT) {
        Ok(Ok(())) => Outcome::Pass,
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(skip) => Outcome::Skip(skip.0.clone()),
            None => Outcome::Fail(format!("{error:#}")),
        },
        Err(RecvTimeoutError::Timeout) => Outcome::Fail(format!("hung for {} s", LIMIT.as_secs())),
        Err(RecvTimeoutError::Disconnected) => Outcome::Fail("the test panicked".to_owned()),
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn names_are_unique_and_one_word() {
        for fs in Fs::ALL {
            for (area, tests) in AREAS.iter().chain(AREAS_WITHOUT) {
                let tests = tests(fs);
                let names: std::collections::HashSet<_> =
                    tests.iter().map(|test| test.name.clone()).collect();
                assert_eq!(names.len(), tests.len(), "{area}");
                let odd = |c: char| !(c.is_ascii_alphanumeric() || "._".contains(c));
                assert!(!names.iter().any(|name| name.contains(odd)), "{area}");
            }
        }
    }
}
