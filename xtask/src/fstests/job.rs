// SPDX-License-Identifier: MIT OR Apache-2.0
//! Job files for LAVA: each job runs one shard in a container and publishes its results, which
//! `fstests report --merge` puts together. QEMU runs in the container, so the nodes need nothing.

use crate::ui::proc::quote;
use std::ffi::OsStr;

/// What a job has to know.
pub struct Fleet {
    /// The container's image: Debian with this project's packages, and a built tree of xfstests.
    pub container: String,
    /// Where the tree is in it.
    pub xfstests: String,
    /// This project's repository, for git.
    pub repository: String,
    /// The revision to test.
    pub revision: String,
    /// Options of `cargo xtask fstests`, without `--xfstests` and `--shard`.
    pub options: Vec<String>,
    /// The command that takes the file of results.
    pub publish: String,
    /// Minutes until a job is given up.
    pub minutes: u32,
}

impl Fleet {
    /// The commands of one job.
    fn steps(&self, shard: usize, shards: usize) -> Vec<String> {
        let word = |s: &str| quote(OsStr::new(s));
        let options: Vec<String> = self.options.iter().map(|o| word(o)).collect();
        vec![
            format!("git clone {} project", word(&self.repository)),
            format!("git -C project checkout {}", word(&self.revision)),
            "cd project".to_string(),
            format!(
                "lava-test-case fstests --shell cargo xtask fstests --xfstests {} --shard \
                 {shard}/{shards} {}",
                word(&self.xfstests),
                options.join(" ")
            ),
            format!("{} out/fstests/results.json", self.publish),
        ]
    }

    /// A job for LAVA's device type `docker`.
    pub fn lava(&self, shard: usize, shards: usize) -> String {
        let minutes = self.minutes;
        let steps: String = self
            .steps(shard, shards)
            .iter()
            .map(|s| format!("          - {}\n", string(s)))
            .collect();
        format!(
            "# SPDX-License-Identifier: MIT OR Apache-2.0\n\
             device_type: docker\n\
             job_name: {name}\n\
             visibility: public\n\
             priority: medium\n\
             timeouts:\n\
             \x20 job: {{ minutes: {minutes} }}\n\
             \x20 action: {{ minutes: {minutes} }}\n\
             actions:\n\
             - deploy:\n\
             \x20   to: docker\n\
             \x20   image: {container}\n\
             - boot:\n\
             \x20   method: docker\n\
             \x20   command: bash\n\
             \x20   prompts: ['root@lava:']\n\
             - test:\n\
             \x20   timeout: {{ minutes: {minutes} }}\n\
             \x20   definitions:\n\
             \x20   - from: inline\n\
             \x20     name: fstests\n\
             \x20     path: inline/fstests.yaml\n\
             \x20     repository:\n\
             \x20       metadata:\n\
             \x20         format: Lava-Test Test Definition 1.0\n\
             \x20         name: fstests\n\
             \x20         description: {name}\n\
             \x20       run:\n\
             \x20         steps:\n\
             {steps}",
            name = string(&format!("fstests of layout leases, {shard} of {shards}")),
            container = string(&self.container),
        )
    }
}

/// A string as YAML has it: that of JSON is one.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_runs_its_shard() {
        let fleet = Fleet {
            container: "registry/image:1".into(),
            xfstests: "/opt/xfs tests".into(),
            repository: "https://example.org/project.git".into(),
            revision: "main".into(),
            options: ["-c", "xfs/dax", "-g", "dax"].map(String::from).into(),
            publish: "cat".into(),
            minutes: 90,
        };
        let job = fleet.lava(2, 3);
        assert!(job.contains("image: \"registry/image:1\"\n"));
        assert!(job.contains("job: { minutes: 90 }"));
        assert!(job.contains(
            "          - \"lava-test-case fstests --shell cargo xtask fstests --xfstests \
             '/opt/xfs tests' --shard 2/3 -c xfs/dax -g dax\"\n"
        ));
        assert!(job.ends_with("          - \"cat out/fstests/results.json\"\n"));
        assert!(!job.contains('\t'));
    }
}
