// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pin lives as long as its memory region, whoever holds the uverbs file, and is charged to whoever
//! registered. By the uverbs interface itself, on both software devices.

use super::env::{
    lease_is, must_be, op_is, Env, Skip, BEFORE, BEHIND, EXCLUSIVE, PINNED, SHARED, SIZE, UNLCK,
};
use super::Test;
use crate::client::{Client, ON_DEMAND, READ, WRITE};
use crate::ops::{Op, Span};
use crate::pins::{count, find, Wanted};
use crate::protocol::{Reply, Request};
use crate::setup::Fs;
use crate::softdev::SoftDevice;
use crate::trial::Expect;
use crate::uverbs::{Driver, Verb, REREG_ACCESS, REREG_PD, REREG_TRANS};
use anyhow::{anyhow, ensure, Context};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);
/// How soon a descriptor is really closed that an ending process held, or a message.
const SOON: Duration = Duration::from_secs(5);

type Check = fn(&Env, &SoftDevice) -> anyhow::Result<()>;

const CHECKS: [(&str, Check); 15] = [
    ("registers_and_deregisters", registers_and_deregisters),
    ("sent_to_another_process", sent_to_another_process),
    ("in_a_message_only", in_a_message_only),
    ("inherited_by_fork", inherited_by_fork),
    ("kept_through_exec", kept_through_exec),
    ("closed_by_exec", closed_by_exec),
    ("closed_with_regions", closed_with_regions),
    ("another_process_registers", another_process_registers),
    ("charged_to_who_registered", charged_to_who_registered),
    ("limit_of_locked_memory", limit_of_locked_memory),
    ("registered_but_not_told", registered_but_not_told),
    ("refused_registrations", refused_registrations),
    ("changed_region", changed_region),
    ("device_deleted", device_deleted),
    ("device_removed_by_sysfs", device_removed_by_sysfs),
];

pub fn tests(_: Fs) -> Vec<Test> {
    let mut tests = Vec::new();
    for driver in Driver::ALL {
        for (name, check) in CHECKS {
            tests.push(Test::new(
                format!("{}_{name}", driver.name()),
                move |env: &Env| {
                    let device = match name {
                        "device_deleted" => SoftDevice::own(driver)?,
                        "device_removed_by_sysfs" => {
                            SoftDevice::on_nic(driver)?.ok_or_else(|| {
                                Skip("no network card (CONFIG_VIRTIO_NET)".to_owned())
                            })?
                        }
                        _ => SoftDevice::shared(driver)?,
                    };
                    check(env, &device)?;
                    nothing_pinned()
                },
            ));
        }
    }
    tests
}

/// Every page that was pinned is unpinned: nobody else in the machine holds any now.
fn nothing_pinned() -> anyhow::Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        // The counters lag behind on each CPU until they are asked for.
        std::fs::write("/proc/sys/vm/stat_refresh", "1")?;
        let text = std::fs::read_to_string("/proc/vmstat")?;
        let value = |name: &str| -> anyhow::Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.context("no such counter")?.trim().parse()?)
        };
        let acquired = value("nr_foll_pin_acquired ")?;
        let released = value("nr_foll_pin_released ")?;
        if acquired == released {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{acquired} pages were pinned and {released} unpinned"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process with a uverbs file of its own, `uverbs`.
struct Opener {
    client: Client,
    fd: i32,
    driver: Driver,
    pd: u32,
}

impl Opener {
    fn new(device: &SoftDevice, flags: i32) -> anyhow::Result<Opener> {
        let mut client = Client::worker()?;
        let driver = device.driver;
        let reply = client.must(Request::Verbs(Verb::Context {
            file: "uverbs".to_owned(),
            path: device.path()?,
            driver,
            flags,
        }))?;
        let fd = i32::try_from(reply.value)?;
        let pd = new_pd(&mut client, driver)?;
        Ok(Opener {
            client,
            fd,
            driver,
            pd,
        })
    }

    /// Registers `PINNED` of a file and releases the lease: nothing but the pin protects it then.
    fn pin(&mut self, path: &Path) -> anyhow::Result<u32> {
        lease_and_map(&mut self.client, path)?;
        let mr = reg_must(&mut self.client, self.driver, self.pd, PINNED)?;
        lease_is(&mut self.client, "file", UNLCK, 0, "release")?;
        Ok(mr)
    }

    /// Gives another process a descriptor of the uverbs file.
    fn give(&self, to: &mut Client) -> anyhow::Result<()> {
        to.must(Request::Take {
            pid: self.client.pid(),
            fd: self.fd,
            name: "uverbs".to_owned(),
        })?;
        Ok(())
    }
}

fn new_pd(client: &mut Client, driver: Driver) -> anyhow::Result<u32> {
    let file = "uverbs".to_owned();
    let reply = client.must(Request::Verbs(Verb::Pd { file, driver }))?;
    Ok(u32::try_from(reply.value)?)
}

fn lease_and_map(client: &mut Client, path: &Path) -> anyhow::Result<()> {
    client.open("file", path)?;
    lease_is(client, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    client.map_shared("map", "file", SIZE)
}

fn reg_request(driver: Driver, pd: u32, at: Span, access: u32, lost: bool) -> Request {
    Request::Verbs(Verb::Reg {
        file: "uverbs".to_owned(),
        driver,
        pd,
        map: "map".to_owned(),
        offset: at.offset,
        length: at.length,
        access,
        lost,
    })
}

fn reg(client: &mut Client, driver: Driver, pd: u32, at: Span) -> anyhow::Result<Reply> {
    client.ask(reg_request(driver, pd, at, WRITE, false))
}

fn reg_must(client: &mut Client, driver: Driver, pd: u32, at: Span) -> anyhow::Result<u32> {
    let reply = reg(client, driver, pd, at)?;
    must_be(&reply, 0, "registering with an exclusive lease")?;
    Ok(u32::try_from(reply.value)?)
}

fn dereg(client: &mut Client, driver: Driver, mr: u32) -> anyhow::Result<()> {
    let file = "uverbs".to_owned();
    client.must(Request::Verbs(Verb::Dereg { file, driver, mr }))?;
    Ok(())
}

fn close(client: &mut Client) -> anyhow::Result<()> {
    client.close("uverbs")
}

fn listed(pid: u32, path: &Path, number: usize) -> anyhow::Result<()> {
    let pins = count(pid, path).map_err(|error| anyhow!(error))?;
    ensure!(
        pins == number,
        "process {pid} is shown with {pins} pins of the file, not {number}"
    );
    Ok(())
}

/// kB charged to a process for what is pinned.
fn charged(client: &Client) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", client.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmPin")?.parse()?)
}

fn charge_is(client: &Client, bytes: u64, what: &str) -> anyhow::Result<()> {
    let kb = charged(client)?;
    ensure!(
        kb == bytes >> 10,
        "{what}: VmPin is {kb} kB, not {}",
        bytes >> 10
    );
    Ok(())
}

/// Files under test, and a process that has nothing to do with them but to truncate.
struct Trial {
    files: (PathBuf, PathBuf),
    other: Client,
}

impl Trial {
    fn new(env: &Env) -> anyhow::Result<Trial> {
        Ok(Trial {
            files: env.pair()?,
            other: Client::worker()?,
        })
    }

    fn path(&self) -> &Path {
        &self.files.0
    }

    fn pinned(&mut self, what: &str) -> anyhow::Result<()> {
        op_is(
            &mut self.other,
            Op::Ftruncate,
            &self.files,
            PINNED,
            REFUSED,
            what,
        )?;
        op_is(
            &mut self.other,
            Op::Punch,
            &self.files,
            PINNED,
            REFUSED,
            what,
        )
    }

    /// The range is free at once.
    fn free(&mut self, what: &str) -> anyhow::Result<()> {
        let expect = Expect::Succeeds;
        let (other, files) = (&mut self.other, &self.files);
        op_is(other, Op::Punch, files, PINNED, expect, what)?;
        op_is(other, Op::Ftruncate, files, PINNED, expect, what)
    }

    /// The range is free once the kernel has closed what a process held that is gone.
    fn free_soon(&mut self, what: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + SOON;
        let call = Op::Punch.call(&self.files.0, &self.files.1, SIZE, PINNED);
        while self.other.call(&call)?.errno == libc::ETXTBSY {
            ensure!(Instant::now() < deadline, "{what}: still pinned");
            std::thread::sleep(Duration::from_millis(10));
        }
        let (other, files) = (&mut self.other, &self.files);
        op_is(other, Op::Ftruncate, files, PINNED, Expect::Succeeds, what)
    }
}

fn registers_and_deregisters(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    let mr = opener.pin(trial.path())?;
    let wanted = Wanted {
        path: trial.path(),
        span: PINNED,
        writable: true,
    };
    find(opener.client.pid(), wanted).map_err(|error| anyhow!(error))?;
    charge_is(&opener.client, PINNED.length, "one region")?;
    trial.pinned("while it is registered")?;
    dereg(&mut opener.client, opener.driver, mr)?;
    listed(opener.client.pid(), trial.path(), 0)?;
    charge_is(&opener.client, 0, "after deregistration")?;
    trial.free("after deregistration")
}

fn sent_to_another_process(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    opener.pin(trial.path())?;
    let mut receiver = env.worker()?;
    opener.give(&mut receiver)?;
    for client in [&opener.client, &receiver] {
        listed(client.pid(), trial.path(), 1)?;
    }
    opener.client.end()?;
    trial.pinned("who registered is gone, and another process has the uverbs file")?;
    listed(receiver.pid(), trial.path(), 1)?;
    charge_is(&receiver, 0, "the receiver registered nothing")?;
    close(&mut receiver)?;
    trial.free("the last descriptor is closed")
}

fn in_a_message_only(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    opener.pin(trial.path())?;
    let post = Request::Verbs(Verb::Post {
        file: "uverbs".to_owned(),
        socket: "socket".to_owned(),
    });
    opener.client.must(post.clone())?;
    trial.pinned("the uverbs file is in a message")?;
    listed(opener.client.pid(), trial.path(), 0)?;
    charge_is(&opener.client, PINNED.length, "still registered")?;
    opener.client.must(Request::Verbs(Verb::Receive {
        socket: "socket".to_owned(),
        file: "uverbs".to_owned(),
    }))?;
    trial.pinned("the message was received")?;
    listed(opener.client.pid(), trial.path(), 1)?;
    opener.client.must(post)?;
    opener.client.close("socket")?;
    trial.free_soon("the message is gone, and nobody has received it")
}

fn inherited_by_fork(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    opener.pin(trial.path())?;
    let child = opener.client.must(Request::Fork)?.value;
    let result = opener
        .client
        .end()
        .and_then(|()| trial.pinned("the child has the uverbs file"))
        .and_then(|()| listed(u32::try_from(child)?, trial.path(), 1));
    // SAFETY: a signal to the child of the process that has just ended; it sleeps until then.
    unsafe { libc::kill(i32::try_from(child)?, libc::SIGKILL) };
    result?;
    trial.free_soon("after the child's end")
}

fn kept_through_exec(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    let mr = opener.pin(trial.path())?;
    opener.client.must(Request::Exec)?;
    trial.pinned("the uverbs file was kept")?;
    listed(opener.client.pid(), trial.path(), 1)?;
    charge_is(&opener.client, 0, "that was another memory")?;
    dereg(&mut opener.client, opener.driver, mr)?;
    charge_is(&opener.client, 0, "and is not this one's to be given back")?;
    trial.free("deregistered after exec")
}

fn closed_by_exec(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, libc::O_CLOEXEC)?;
    opener.pin(trial.path())?;
    trial.pinned("before exec")?;
    opener.client.must(Request::Exec)?;
    listed(opener.client.pid(), trial.path(), 0)?;
    trial.free("exec closed the uverbs file")
}

fn closed_with_regions(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    opener.pin(trial.path())?;
    lease_is(
        &mut opener.client,
        "file",
        SHARED | EXCLUSIVE,
        0,
        "the lease",
    )?;
    reg_must(&mut opener.client, opener.driver, opener.pd, BEHIND)?;
    lease_is(&mut opener.client, "file", UNLCK, 0, "release")?;
    charge_is(&opener.client, PINNED.length + BEHIND.length, "two regions")?;
    trial.pinned("while it is open")?;
    close(&mut opener.client)?;
    charge_is(&opener.client, 0, "the context is gone")?;
    trial.free("the context is gone")
}

/// What a process does that imports a device and a protection domain: it has only the descriptor and
/// the number.
fn another_process_registers(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let opener = Opener::new(device, 0)?;
    let (driver, pd) = (opener.driver, opener.pd);
    let mut importer = env.worker()?;
    opener.give(&mut importer)?;
    lease_and_map(&mut importer, trial.path())?;
    let mr = reg_must(&mut importer, driver, pd, PINNED)?;
    lease_is(&mut importer, "file", UNLCK, 0, "release")?;
    for client in [&opener.client, &importer] {
        listed(client.pid(), trial.path(), 1)?;
    }
    charge_is(&importer, PINNED.length, "the importer registered it")?;
    charge_is(&opener.client, 0, "the opener did not")?;
    trial.pinned("while it is registered")?;
    opener.client.end()?;
    trial.pinned("who opened the device is gone")?;
    dereg(&mut importer, driver, mr)?;
    charge_is(&importer, 0, "after deregistration")?;
    trial.free("after deregistration")
}

/// A process that imports needs a lease of its own; and what one registers, another may deregister.
fn charged_to_who_registered(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    let (driver, pd) = (opener.driver, opener.pd);
    lease_and_map(&mut opener.client, trial.path())?;
    let mut importer = env.worker()?;
    opener.give(&mut importer)?;
    importer.open("file", trial.path())?;
    importer.map_shared("map", "file", SIZE)?;
    must_be(
        &reg(&mut importer, driver, pd, PINNED)?,
        libc::EOPNOTSUPP,
        "registering by the lease of another",
    )?;
    charge_is(&importer, 0, "refused")?;
    let mr = reg_must(&mut opener.client, driver, pd, PINNED)?;
    lease_is(&mut opener.client, "file", UNLCK, 0, "release")?;
    charge_is(&opener.client, PINNED.length, "one region")?;
    charge_is(&importer, 0, "it is not the importer's")?;
    dereg(&mut importer, driver, mr)?;
    charge_is(&opener.client, 0, "deregistered by another")?;
    charge_is(&importer, 0, "who gets nothing for it")?;
    trial.free("deregistered by another")
}

fn limit_of_locked_memory(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    const NOBODY: u32 = 65534;
    let mut trial = Trial::new(env)?;
    std::os::unix::fs::chown(trial.path(), Some(NOBODY), Some(NOBODY))?;
    let mut opener = Opener::new(device, 0)?;
    let (driver, pd) = (opener.driver, opener.pd);
    let client = &mut opener.client;
    let bytes = PINNED.length + BEHIND.length - 4096;
    client.must(Request::Verbs(Verb::Memlock { bytes }))?;
    // Gives up CAP_IPC_LOCK as well.
    client.must(Request::SetUid { uid: NOBODY })?;
    lease_and_map(client, trial.path())?;
    let mr = reg_must(client, driver, pd, PINNED)?;
    charge_is(client, PINNED.length, "within the limit")?;
    must_be(
        &reg(client, driver, pd, BEHIND)?,
        libc::ENOMEM,
        "a page above the limit",
    )?;
    charge_is(client, PINNED.length, "nothing for what was refused")?;
    listed(client.pid(), trial.path(), 1)?;
    dereg(client, driver, mr)?;
    charge_is(client, 0, "given back")?;
    for _ in 0..3 {
        let mr = reg_must(client, driver, pd, BEHIND)?;
        dereg(client, driver, mr)?;
    }
    charge_is(client, 0, "given back each time")?;
    lease_is(client, "file", UNLCK, 0, "release")?;
    trial.free("after deregistration")
}

/// The kernel registers and cannot say so: it has to take everything back.
fn registered_but_not_told(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    let (driver, pd) = (opener.driver, opener.pd);
    let client = &mut opener.client;
    lease_and_map(client, trial.path())?;
    let reply = client.ask(reg_request(driver, pd, PINNED, WRITE, true))?;
    must_be(&reply, libc::EFAULT, "nowhere to put the answer")?;
    charge_is(client, 0, "nothing is registered")?;
    listed(client.pid(), trial.path(), 0)?;
    lease_is(client, "file", UNLCK, 0, "release")?;
    nothing_pinned()?;
    trial.free("nothing is registered")
}

fn refused_registrations(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    let (driver, pd) = (opener.driver, opener.pd);
    let client = &mut opener.client;
    client.open("file", trial.path())?;
    client.map_shared("map", "file", SIZE)?;
    must_be(
        &reg(client, driver, pd, PINNED)?,
        libc::EOPNOTSUPP,
        "without a lease",
    )?;
    lease_is(client, "file", SHARED, 0, "a lease that can be broken")?;
    must_be(
        &reg(client, driver, pd, PINNED)?,
        libc::EPERM,
        "with a lease that can be broken",
    )?;
    lease_is(client, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    // The last page of the mapping lies behind the end of the file.
    rustix::fs::ftruncate(
        std::fs::File::options().write(true).open(trial.path())?,
        SIZE,
    )?;
    client.map_shared("map", "file", SIZE + 4096)?;
    let over = Span::new(SIZE - 65536, 65536 + 4096);
    must_be(
        &reg(client, driver, pd, over)?,
        libc::EFAULT,
        "a page behind the end of the file",
    )?;
    charge_is(client, 0, "nothing is registered")?;
    listed(client.pid(), trial.path(), 0)?;
    lease_is(client, "file", UNLCK, 0, "release")?;
    nothing_pinned()?;
    if driver == Driver::Rxe {
        let access = WRITE | ON_DEMAND;
        let reply = client.ask(reg_request(driver, pd, PINNED, access, false))?;
        must_be(&reply, 0, "on-demand paging needs no lease")?;
        charge_is(client, 0, "and pins nothing")?;
        listed(client.pid(), trial.path(), 0)?;
    }
    trial.free("nothing is pinned")
}

fn changed_region(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    let (driver, pd) = (opener.driver, opener.pd);
    let client = &mut opener.client;
    lease_and_map(client, trial.path())?;
    let request = reg_request(driver, pd, PINNED, READ, false);
    let mr = u32::try_from(client.must(request)?.value)?;
    lease_is(client, "file", UNLCK, 0, "release")?;
    let other_pd = new_pd(client, driver)?;
    let change = |flags, access| {
        Request::Verbs(Verb::Rereg {
            file: "uverbs".to_owned(),
            driver,
            mr,
            flags,
            pd: other_pd,
            map: "map".to_owned(),
            offset: BEHIND.offset,
            length: BEHIND.length,
            access,
        })
    };
    // siw cannot change a region at all, and rxe not its memory.
    let possible = if driver == Driver::Rxe {
        0
    } else {
        libc::EOPNOTSUPP
    };
    let not_writable = if driver == Driver::Rxe {
        libc::EACCES
    } else {
        possible
    };
    for (flags, access, wanted, what) in [
        (REREG_PD, READ, possible, "another protection domain"),
        (REREG_ACCESS, READ, possible, "the same access"),
        (
            REREG_ACCESS,
            WRITE,
            not_writable,
            "writing to what is pinned for reading",
        ),
        (REREG_TRANS, READ, libc::EOPNOTSUPP, "other memory"),
    ] {
        must_be(&client.ask(change(flags, access))?, wanted, what)?;
        let wanted = Wanted {
            path: trial.path(),
            span: PINNED,
            writable: false,
        };
        find(client.pid(), wanted).map_err(|error| anyhow!("{what}: {error}"))?;
        listed(client.pid(), trial.path(), 1)?;
        charge_is(client, PINNED.length, what)?;
        trial.pinned(what)?;
    }
    dereg(client, driver, mr)?;
    charge_is(client, 0, "after deregistration")?;
    trial.free("after deregistration")
}

/// `rdma link delete`.
fn device_deleted(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    removed(env, device, SoftDevice::delete)
}

/// The network card under it is taken away, by sysfs.
fn device_removed_by_sysfs(env: &Env, device: &SoftDevice) -> anyhow::Result<()> {
    removed(env, device, SoftDevice::remove_nic)
}

/// rxe takes everything away from those who use the device. siw waits for them.
fn removed(
    env: &Env,
    device: &SoftDevice,
    remove: fn(&SoftDevice) -> anyhow::Result<Child>,
) -> anyhow::Result<()> {
    let mut trial = Trial::new(env)?;
    let mut opener = Opener::new(device, 0)?;
    let mr = opener.pin(trial.path())?;
    let driver = opener.driver;
    trial.pinned("before the device is removed")?;
    let mut removal = remove(device)?;
    if driver == Driver::Rxe {
        ensure!(removal.wait()?.success(), "cannot be removed");
        ensure!(device.is_gone(SOON), "the device is still there");
        charge_is(&opener.client, 0, "the device is gone")?;
        listed(opener.client.pid(), trial.path(), 0)?;
        trial.free("the device is gone, and the uverbs file still open")?;
        let reply = reg(&mut opener.client, driver, opener.pd, BEFORE)?;
        must_be(&reply, libc::EIO, "registering with a device that is gone")?;
        return close(&mut opener.client);
    }
    std::thread::sleep(Duration::from_millis(500));
    ensure!(
        removal.try_wait()?.is_none(),
        "removed under a process that uses it"
    );
    charge_is(&opener.client, PINNED.length, "the removal waits")?;
    listed(opener.client.pid(), trial.path(), 1)?;
    trial.pinned("the removal waits")?;
    dereg(&mut opener.client, driver, mr)?;
    charge_is(&opener.client, 0, "after deregistration")?;
    trial.free("after deregistration")?;
    close(&mut opener.client)?;
    ensure!(removal.wait()?.success(), "cannot be removed");
    ensure!(device.is_gone(SOON), "the device is still there");
    Ok(())
}
