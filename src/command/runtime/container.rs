//! Containers: podman, docker or apptainer runs a command in an image that is pinned by its digest. The command sees the
//! image, its folders and its inputs, each at the path that it has on this machine, and the machine's network.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use stage_api::{Job, StageError};

use super::super::Place;
use super::prefix::Prefix;
use super::{program, run};
use crate::digest::Digest;

/// The variable that names the engine where there are several.
const CHOICE: &str = "REPRO_CONTAINER_ENGINE";
/// The variable by which the run says which GPUs a step may use.
const GPUS: &str = "CUDA_VISIBLE_DEVICES";
/// The file of an image that apptainer has converted.
const IMAGE: &str = "image.sif";
/// How long an engine may take to say the digest of a tag.
const PATIENCE: Duration = Duration::from_secs(10);

/// What runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Podman,
    Docker,
    Apptainer,
}

const ENGINES: [(&str, Engine); 3] =
    [("podman", Engine::Podman), ("docker", Engine::Docker), ("apptainer", Engine::Apptainer)];

/// A container for one run of a command.
#[derive(Debug)]
pub struct Container {
    engine: Engine,
    program: PathBuf,
    /// The image, as the engine names it.
    image: OsString,
    /// The container's own name.
    name: String,
    /// The GPUs that it may use.
    gpus: Vec<String>,
    /// The folder of a converted image, in use while the command runs.
    _converted: Option<Prefix>,
}

/// Whether an image is named by its digest.
///
/// # Errors
/// A sentence that says what to write.
pub(super) fn check(image: &str) -> Result<(), String> {
    let is_digest = |digest: &str| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
    };
    let is_plain =
        |name: &str| !name.is_empty() && !name.starts_with('-') && !name.contains(char::is_whitespace);
    match image.split_once('@') {
        Some((name, digest)) if is_plain(name) && is_digest(digest) => Ok(()),
        None if is_plain(image) => {
            let advice = match digest_of_tag(image) {
                Some(pinned) => format!("write `container: \"{pinned}\"`"),
                None => format!(
                    "write its digest, `name@sha256:…`: `podman pull {image}` and `podman image inspect --format \
                     '{{{{.RepoDigests}}}}' {image}` print it"
                ),
            };
            Err(format!(
                "container: `{image}` has no digest, and a tag may name another image later; {advice}"
            ))
        }
        _ => Err(format!(
            "container: `{image}` is not an image with its digest, `name@sha256:…` and 64 digits"
        )),
    }
}

/// The name with its digest of an image that an engine of this machine has under a tag.
fn digest_of_tag(image: &str) -> Option<String> {
    let (engine, program) = find().ok()?;
    if engine == Engine::Apptainer {
        return None;
    }
    let mut process = Process::new(program);
    process.args(["image", "inspect", "--format", "{{range .RepoDigests}}{{println .}}{{end}}", image]);
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = process.spawn().ok()?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find(|line| line.contains("@sha256:")).map(|line| line.trim().to_owned())
}

/// What a converted image is called in the cache.
pub(super) fn environment(image: &str) -> String {
    let text = format!("{image} {} {}", std::env::consts::OS, std::env::consts::ARCH);
    Digest::of_kind("repro container image v1", text.as_bytes()).to_string()
}

/// The engine of this machine: the one that [`CHOICE`] names, or else the first that is there.
fn find() -> Result<(Engine, PathBuf), String> {
    let choice = std::env::var(CHOICE).unwrap_or_default();
    let names = ENGINES.map(|(name, _)| name);
    if !choice.is_empty() && !names.contains(&choice.as_str()) {
        return Err(format!("{CHOICE} is `{choice}`; set it to podman, docker or apptainer"));
    }
    let mut engines = ENGINES.into_iter().filter(|(name, _)| choice.is_empty() || *name == choice);
    let found = engines.find_map(|(name, engine)| Some((engine, program(name)?)));
    found.ok_or_else(|| match choice.as_str() {
        "" => "there is no podman, docker or apptainer in PATH; install one: `apt install podman`".to_owned(),
        choice => {
            format!("there is no `{choice}` in PATH, which {CHOICE} names; install it, or unset the variable")
        }
    })
}

impl Container {
    /// A container of `image`, which is pulled where it is missing.
    ///
    /// # Errors
    /// When there is no engine (a person must install one), or it fails.
    pub(super) fn prepare(image: &str, job: &Job) -> Result<Self, StageError> {
        let (engine, program) = find().map_err(|missing| StageError::NeedsHuman {
            what: format!("it runs in a container of {image}, and {missing}"),
        })?;
        let pull = |process: &mut Process| run(process, &format!("fetch the image {image}"), job);
        let mut name: OsString = image.into();
        let mut converted = None;
        if engine == Engine::Apptainer {
            let build = |folder: &Path| {
                let mut process = Process::new(&program);
                pull(process.arg("build").arg(folder.join(IMAGE)).arg(format!("docker://{image}")))
            };
            let prefix = Prefix::shared(super::cache(job)?, &environment(image), job, &build)?;
            name = prefix.path.with_file_name(IMAGE).into_os_string();
            converted = Some(prefix);
        } else {
            let mut inspect = Process::new(&program);
            inspect.args(["image", "inspect", image]);
            let found = inspect.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            if !found.success() {
                pull(Process::new(&program).args(["pull", image]))?;
            }
        }
        let uses_gpu = job.host.device != "cpu";
        let gpus = std::env::var(GPUS).ok().filter(|_| uses_gpu).unwrap_or_default();
        let gpus = gpus.split(',').filter(|gpu| !gpu.is_empty()).map(ToOwned::to_owned).collect();
        let own = Digest::of_bytes(job.out.as_os_str().as_encoded_bytes()).short();
        Ok(Self { engine, program, image: name, name: format!("repro-{own}"), gpus, _converted: converted })
    }

    /// The process that runs `words` in the container, with these variables, and with those in `passed` as this process has
    /// them: a value on a command line could be read by other users.
    pub fn process(
        &self,
        words: &[String],
        place: &Place,
        variables: &[(String, OsString)],
        passed: &[String],
    ) -> Process {
        let mut process = Process::new(&self.program);
        let inputs = place.inputs.0.iter().map(|input| (input.path.as_path(), true));
        let own = [place.folder, place.out, place.scratch].map(|folder| (folder, false));
        let mut mounts: Vec<(&Path, bool)> = own.into_iter().filter(|(folder, _)| folder.exists()).collect();
        for (path, is_readonly) in inputs {
            // A folder within another one comes with it.
            if !mounts.iter().any(|(other, _)| path.starts_with(other)) {
                mounts.push((path, is_readonly));
            }
        }
        match self.engine {
            Engine::Podman | Engine::Docker => {
                self.run_arguments(&mut process);
                process.arg("--workdir").arg(place.folder);
                for (path, is_readonly) in mounts {
                    let path = path.display();
                    let readonly = if is_readonly { ",readonly" } else { "" };
                    process.arg("--mount").arg(format!("type=bind,source={path},target={path}{readonly}"));
                }
                process.args(["--env", "HOME=/tmp"]);
                for (name, value) in variables {
                    process.arg("--env").arg(assignment(name, value));
                }
                for name in passed {
                    process.args(["--env", name]);
                }
                process.arg("--entrypoint").arg(&words[0]).arg(&self.image).args(&words[1..]);
            }
            Engine::Apptainer => {
                process
                    .args(["exec", "--containall", "--no-home", "--writable-tmpfs", "--pwd"])
                    .arg(place.folder);
                for (path, is_readonly) in mounts {
                    let path = path.display();
                    let mode = if is_readonly { "ro" } else { "rw" };
                    process.arg("--bind").arg(format!("{path}:{path}:{mode}"));
                }
                if !self.gpus.is_empty() {
                    process.args(["--nv", "--env"]).arg(format!("{GPUS}={}", self.gpus.join(",")));
                }
                for (name, value) in variables {
                    process.arg("--env").arg(assignment(name, value));
                }
                for name in passed {
                    if let Some(value) = std::env::var_os(name) {
                        process.env(format!("APPTAINERENV_{name}"), value);
                    }
                }
                process.arg(&self.image).args(words);
            }
        }
        process
    }

    /// How podman and docker run a container that leaves nothing behind and writes files as this user.
    fn run_arguments(&self, process: &mut Process) {
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        process.args([
            "run",
            "--rm",
            "--pull",
            "never",
            "--network",
            "host",
            "--security-opt",
            "label=disable",
        ]);
        process.args(["--name", &self.name, "--user", &format!("{}:{}", user.as_raw(), group.as_raw())]);
        if self.engine == Engine::Podman {
            if !user.is_root() {
                process.args(["--userns", "keep-id"]);
            }
            for gpu in &self.gpus {
                process.args(["--device", &format!("nvidia.com/gpu={gpu}")]);
            }
        } else if !self.gpus.is_empty() {
            // Quoted within the argument: docker reads a list of fields, and commas separate them.
            process.args(["--gpus", &format!("\"device={}\"", self.gpus.join(","))]);
        }
    }

    /// Ends the container where the end of its process does not.
    pub(super) fn clear(&self) {
        if self.engine != Engine::Apptainer {
            let mut process = Process::new(&self.program);
            process.args(["rm", "--force", &self.name]);
            if self.engine == Engine::Podman {
                // Docker does not wait for the command to end by itself, and podman does for 10 s.
                process.args(["--time", "0"]);
            }
            // It may have ended by itself.
            let _: io::Result<_> =
                process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

fn assignment(name: &str, value: &OsString) -> OsString {
    let mut text = OsString::from(name);
    text.push("=");
    text.push(value);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_pinned_by_its_digest() {
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(check(&format!("docker.io/library/python@sha256:{digest}")), Ok(()));
        assert_eq!(check(&format!("python:3.12@sha256:{digest}")), Ok(()));
        for wrong in [
            String::new(),
            format!("@sha256:{digest}"),
            format!("-v@sha256:{digest}"),
            format!("a b@sha256:{digest}"),
            format!("python@sha256:{}", &digest[1..]),
            format!("python@sha256:{}", digest.to_uppercase()),
            "python@3.12".to_owned(),
        ] {
            assert!(check(&wrong).unwrap_err().contains("is not an image with its digest"), "{wrong}");
        }
        let tag = check("no-such-image-anywhere:3.12").unwrap_err();
        assert!(tag.contains("a tag may name another image later; write its digest"), "{tag}");
    }
}
