// SPDX-License-Identifier: MIT OR Apache-2.0
//! `series bisect`: every patch builds, with the option on and off, and boots.

use crate::cmd::setup;
use crate::cmd::variants::{self, Place};
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::session::Session;
use crate::kernel::profile::Profile;
use crate::kernel::snapshot::{self, State};
use crate::kernel::tree::Tree;
use crate::kernel::variant::{self, Variant};
use crate::kernel::{config, make};
use crate::submit::built::{Built, Store};
use crate::submit::commits::{self, Commit, Selection};
use crate::ui::progress::human;
use crate::ui::{signals, table};
use anyhow::{Context, Result};
use clap::Args;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Somebody who looks for the commit that broke something must be able to stop at any of these. One
source tree in the cache goes from patch to patch, so that only what a patch changes is compiled;
ccache knows the rest. Results are kept by the state of the source, the configuration and the
compilers: what was interrupted goes on where it was, and a fixup makes only what comes after it
be built again. Before the patch that adds CONFIG_FILE_PINS, on and off are the same. Files that the
kernel for the guest has not (hardware drivers first of all) are compiled by themselves, and a patch
to RDMA's headers has all of RDMA compiled. A warning is a failure.

Examples:
  cargo xtask series bisect --off --boot
  cargo xtask series bisect --from 60 --to 72 --boot";

/// A small part of everyday life, on both filesystems.
const SMOKE: &str = "\
set -e
mkdir -p /tmp/m
for fs in ext4 xfs; do
  case $fs in
    ext4) mkfs.ext4 -q -F -b 4096 /dev/pmem0 ;;
    xfs) mkfs.xfs -q -f /dev/pmem0 ;;
  esac
  mount -t $fs -o dax=always /dev/pmem0 /tmp/m
  dd if=/dev/zero of=/tmp/m/a bs=1M count=8 conv=fsync status=none
  fallocate -p -o 1M -l 1M /tmp/m/a
  cp /tmp/m/a /tmp/m/b
  truncate -s 1M /tmp/m/a
  test $(stat -c %s /tmp/m/a) = 1048576
  umount /tmp/m
done
cat /proc/locks >/dev/null";

/// Build every patch, with the option on and off, and boot it
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// The first patch (default: 1)
    #[arg(long, value_name = "N")]
    from: Option<usize>,
    /// The last patch (default: the last of the series)
    #[arg(long, value_name = "M")]
    to: Option<usize>,
    /// With the option switched off as well
    #[arg(long)]
    off: bool,
    /// Boot each kernel and use both filesystems in it
    #[arg(long)]
    boot: bool,
}

/// Builds, boots and prints a table.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    setup::ensure(ctx)?;
    let tree = Tree::required(ctx)?;
    let all = commits::list(&tree)?;
    let chosen = Selection::new(opts.from, opts.to).of(&all)?;
    if ctx.global.dry_run {
        for c in &chosen {
            println!("build {} ({:04} {})", &c.hash[..12], c.number, c.subject);
        }
        return Ok(());
    }
    let logs = ctx.logs("bisect")?;
    let mut profiles = vec![Profile::Default];
    if opts.off {
        profiles.push(Profile::Off);
    }
    let bench = Bench {
        ctx,
        tree: &tree,
        boot: opts.boot,
        store: Store::new(ctx.cache.built()),
        settings: profiles
            .iter()
            .map(|p| Ok((*p, make::settings(ctx, *p)?)))
            .collect::<Result<_>>()?,
    };
    let mut rows = vec![heading(&profiles)];
    let mut failed = 0;
    for c in &chosen {
        let dir = logs.join(format!("{:04}", c.number));
        let mut row = vec![format!("{:04}", c.number), shortened(&c.subject)];
        let option = has_option(&tree, c);
        for &(profile, ref settings) in &bench.settings {
            if profile == Profile::Off && !option {
                row.push("as on".into());
                continue;
            }
            match bench.patch(c, profile, settings, &dir) {
                Ok(said) => row.push(said),
                Err(e) => {
                    signals::check()?;
                    failed += 1;
                    eprintln!("{:04} ({profile}): {}", c.number, crate::error::text(&e));
                    row.push(format!("FAILED, see {}", dir.display()));
                }
            }
        }
        rows.push(row);
    }
    table::layout(&rows, 0).iter().for_each(|l| println!("{l}"));
    if failed > 0 {
        return Err(Failure::of(
            Kind::Test,
            format!("{failed} kernels do not build or boot"),
        ));
    }
    Ok(())
}

fn heading(profiles: &[Profile]) -> Vec<String> {
    let name = |p: &Profile| match p {
        Profile::Off => "off".to_string(),
        _ => "on".to_string(),
    };
    let names = profiles.iter().map(name);
    ["".to_string(), "patch".to_string()]
        .into_iter()
        .chain(names)
        .collect()
}

fn shortened(subject: &str) -> String {
    console::truncate_str(subject, 48, "…").into_owned()
}

/// Does the source have the option already?
fn has_option(tree: &Tree, c: &Commit) -> bool {
    tree.git()
        .args(["grep", "-q", "^config FILE_PINS$", &c.tree, "--", "mm"])
        .succeeds()
}

struct Bench<'a> {
    ctx: &'a Ctx,
    tree: &'a Tree,
    boot: bool,
    store: Store,
    settings: Vec<(Profile, String)>,
}

impl Bench<'_> {
    /// Builds and boots unless that is known to go well.
    fn patch(&self, c: &Commit, profile: Profile, settings: &str, logs: &Path) -> Result<String> {
        let enough = |b: &Built| b.others.is_some() && (!self.boot || b.boot_seconds.is_some());
        if let Some(b) = self.store.get(&c.tree, profile, settings).filter(enough) {
            return Ok(format!("{} (known)", said(&b)));
        }
        fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
        self.ctx.ui.note(&format!("{:04} {}", c.number, c.subject));
        let begun = Instant::now();
        let made = make::build_commit(self.ctx, self.tree, profile, &c.hash, logs)?;
        if !made.warnings.is_empty() {
            return Err(Failure::of(Kind::Test, made.warnings.join("\n")));
        }
        let others = match profile {
            Profile::Default => self.others(c, logs)?,
            _ => 0,
        };
        let mut built = Built {
            objects: made.objects,
            others: Some(others),
            seconds: begun.elapsed().as_secs(),
            boot_seconds: None,
        };
        self.store.put(&c.tree, profile, settings, &built)?;
        if self.boot {
            built.boot_seconds = Some(self.smoke(&made.image, profile, logs)?);
            self.store.put(&c.tree, profile, settings, &built)?;
        }
        // Seventy images would be a gigabyte.
        let _ = fs::remove_file(&made.image);
        Ok(said(&built))
    }

    /// Compiles what the patch touches and the guest's kernel has not; gives the number of objects.
    fn others(&self, c: &Commit, logs: &Path) -> Result<usize> {
        let dot_config = self.ctx.cache.build("bisect-default").join(".config");
        let text = fs::read_to_string(&dot_config)
            .with_context(|| format!("cannot read {}", dot_config.display()))?;
        let config = config::parse(&text);
        let has = |option: &str| config.get(option).is_some_and(|value| value != "n");
        let files = || {
            c.files
                .iter()
                .filter(|f| f.remains())
                .map(|f| f.path.as_str())
        };
        let left_out = variant::split(files(), has).left_out;
        let headers = files().any(|f| f.starts_with("include/rdma/"));
        if left_out.is_empty() && !headers {
            return Ok(0);
        }
        let drivers = variant::named("drivers").context("there is no variant `drivers`")?;
        let v = Variant {
            also: if headers { drivers.also } else { &[] },
            ..drivers.clone()
        };
        let flavour = Profile::Default.flavour();
        let _lock = self.ctx.cache.lock_source(flavour, &self.ctx.ui)?;
        let state = State::Commit(&c.hash);
        let (src, _) = snapshot::update(self.ctx, &self.tree.dir, &state, flavour)
            .context("bringing the kernel source into the cache")?;
        let place = Place {
            src,
            dir: self.ctx.cache.build("bisect-drivers"),
            log: logs.join("drivers.log"),
        };
        // Before its patch, the series' option is unknown: as in the base.
        let touched = left_out.join("\n");
        let (split, said) =
            variants::compile_at(self.ctx, &place, &v, Profile::Base, &touched, v.about)?;
        let not_compiled = split.left_out;
        let warnings: Vec<String> = said
            .into_iter()
            .filter(|c| c.contains("warning:"))
            .collect();
        if !warnings.is_empty() || !not_compiled.is_empty() {
            let what = [warnings, not_compiled].concat();
            return Err(Failure::of(
                Kind::Test,
                format!("warnings, or not compiled at all:\n{}", what.join("\n")),
            ));
        }
        Ok(split.objects.len())
    }

    fn smoke(&self, image: &Path, profile: Profile, logs: &Path) -> Result<u64> {
        let logs = logs.join(format!("boot-{profile}"));
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let begun = Instant::now();
        let mut step = self.ctx.ui.step("booting it");
        let session = Session {
            image,
            logs: &logs,
            script: SMOKE.into(),
            silence: Duration::from_secs(180),
            limit: Some(Duration::from_secs(600)),
            attached: false,
        };
        let status = session.run(self.ctx, |l| step.line(l))?.check(&logs)?;
        if status != 0 {
            let err = fs::read_to_string(logs.join("guest/stderr")).unwrap_or_default();
            return Err(Failure::of(
                Kind::Test,
                format!("the script in the guest ended with status {status}\n{err}"),
            ));
        }
        step.done("");
        Ok(begun.elapsed().as_secs())
    }
}

fn said(b: &Built) -> String {
    let time = |s| human(Duration::from_secs(s));
    let others = match b.others {
        Some(n) if n > 0 => format!(" and {n} of drivers"),
        _ => String::new(),
    };
    let built = format!("{} objects{others}, {}", b.objects, time(b.seconds));
    match b.boot_seconds {
        Some(s) => format!("{built}; boots, {}", time(s)),
        None => built,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_says_what_was_done() {
        let mut b = Built {
            objects: 12,
            others: Some(0),
            seconds: 75,
            boot_seconds: None,
        };
        assert_eq!(said(&b), "12 objects, 75 s");
        b.boot_seconds = Some(31);
        assert_eq!(said(&b), "12 objects, 75 s; boots, 31 s");
        b.others = Some(2);
        assert_eq!(said(&b), "12 objects and 2 of drivers, 75 s; boots, 31 s");
    }

    #[test]
    fn the_smoke_script_is_a_shell_script() {
        let sh = crate::ui::proc::Cmd::new("sh").args(["-n", "-c", SMOKE]);
        assert!(sh.succeeds());
        assert_eq!(
            heading(&[Profile::Default, Profile::Off])[2..],
            ["on", "off"]
        );
    }
}
