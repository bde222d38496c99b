//! A real name server, Knot DNS, that takes signed updates of one zone: on loopback, on a free port, in a folder of its
//! own. `tests/run` installs it.

use std::{fs, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use server::sandbox::free_ports;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::{Outcome, not_run, within};

const START: Duration = Duration::from_secs(30);
const PROGRAM: &str = "/usr/sbin/knotd";

/// One Knot. Dropping it kills it.
#[derive(Debug)]
pub struct Knot {
    address: SocketAddr,
    zone: String,
    folder: TempDir,
    _process: Child,
}

impl Knot {
    /// The name of the key that may update TXT records.
    pub const KEY: &str = "credence";
    /// What it is, as octets.
    pub const SECRET: [u8; 32] = [7; 32];

    /// One for `zone`, of which every name leads to loopback. Says so loudly when it is not installed; then a test
    /// returns. With `CREDENCE_REQUIRE_ENVOY` set, as in CI, that is a failure.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(zone: &str) -> Option<Self> {
        if !PathBuf::from(PROGRAM).exists() {
            not_run(&format!("{PROGRAM} is missing (tests/run installs knot)"));
            return None;
        }
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder: {error}"));
        let address = free_ports(1).unwrap_or_else(|error| panic!("no port: {error}"))[0];
        let at = folder.path().display();
        let secret = STANDARD.encode(Self::SECRET);
        let settings = format!(
            "server:\n    rundir: \"{at}\"\n    listen: {}@{}\ndatabase:\n    storage: \"{at}\"\nkey:\n  - id: {}.\n    \
             algorithm: hmac-sha256\n    secret: {secret}\nacl:\n  - id: update\n    key: {}.\n    action: update\n    \
             update-type: [TXT]\nzone:\n  - domain: {zone}.\n    storage: \"{at}\"\n    file: zone\n    acl: update\n    \
             zonefile-sync: -1\n    journal-content: none\n",
            address.ip(),
            address.port(),
            Self::KEY,
            Self::KEY,
        );
        let records = format!(
            "$ORIGIN {zone}.\n@ 60 IN SOA ns hostmaster 1 3600 600 86400 60\n@ 60 IN NS ns\n@ 60 IN A 127.0.0.1\n\
             * 60 IN A 127.0.0.1\nns 60 IN A 127.0.0.1\n"
        );
        let place = |name: &str| folder.path().join(name);
        for (name, text) in [("knot.conf", &settings), ("zone", &records)] {
            fs::write(place(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let log = fs::File::create(place("log")).unwrap_or_else(|error| panic!("log: {error}"));
        let errors = log.try_clone().unwrap_or_else(|error| panic!("log: {error}"));
        let process = Command::new(PROGRAM)
            .arg("-c")
            .arg(place("knot.conf"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
        let made = Self { address, zone: zone.to_owned(), folder, _process: process };
        within(START, "knot answers", async || {
            TcpStream::connect(address).await.map(drop).map_err(|error| Outcome::Nothing(error.to_string()))
        })
        .await;
        Some(made)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}
