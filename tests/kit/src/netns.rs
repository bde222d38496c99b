//! A network namespace of its own for one proxy, joined to the host by a pair of virtual interfaces. Needs root.
//!
//! The control plane stays on the host's loopback: what the proxy sends to the same port of its own loopback is
//! carried there.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{io::copy_bidirectional, net::TcpStream, task::JoinSet};

/// Removed when dropped.
#[derive(Debug)]
pub struct NetworkNamespace {
    name: String,
    link: String,
    subnet: u8,
    carriers: JoinSet<()>,
}

impl NetworkNamespace {
    /// Makes one; `Err` says why it cannot be made here.
    ///
    /// # Errors
    /// In words: not root, no `ip`, or the kernel refuses.
    pub fn create() -> Result<Self, String> {
        let number: u16 = rand::random();
        let subnet = (number % 250) as u8;
        let made = Self {
            name: format!("credence-{number:04x}"),
            link: format!("crd{number:04x}"),
            subnet,
            carriers: JoinSet::new(),
        };
        let (name, link) = (made.name.as_str(), made.link.as_str());
        let (host, inside) = (format!("{}/30", made.host()), format!("{}/30", made.inside()));
        let inner = format!("{link}n");
        ip(&["netns", "add", name])?;
        ip(&["link", "add", link, "type", "veth", "peer", "name", &inner])?;
        ip(&["link", "set", &inner, "netns", name])?;
        ip(&["addr", "add", &host, "dev", link])?;
        ip(&["link", "set", link, "up"])?;
        ip(&["-n", name, "addr", "add", &inside, "dev", &inner])?;
        ip(&["-n", name, "link", "set", &inner, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// The host's end.
    #[must_use]
    pub fn host(&self) -> IpAddr {
        Ipv4Addr::new(198, 18, self.subnet, 1).into()
    }

    /// The namespace's end.
    #[must_use]
    pub fn inside(&self) -> IpAddr {
        Ipv4Addr::new(198, 18, self.subnet, 2).into()
    }

    /// Writes a program into `folder` that runs `envoy` inside.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn wrap(&self, envoy: &Path, folder: &Path) -> PathBuf {
        let path = folder.join("envoy-inside");
        let script = format!("#!/bin/sh\nexec ip netns exec {} {} \"$@\"\n", self.name, envoy.display());
        std::fs::write(&path, script).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Carries what is sent to `address` inside to the same address on the host.
    ///
    /// # Panics
    /// When the address is taken inside.
    pub fn carry(&mut self, address: SocketAddr) {
        let listener = self.listen(address).unwrap_or_else(|error| panic!("{address} inside: {error}"));
        self.carriers.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut inside, _)) = listener.accept().await {
                open.spawn(async move {
                    if let Ok(mut host) = TcpStream::connect(address).await {
                        let _ = copy_bidirectional(&mut inside, &mut host).await;
                    }
                });
            }
        });
    }

    /// A socket belongs to the namespace of the thread that made it, for as long as it lives.
    fn listen(&self, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let namespace = File::open(Path::new("/var/run/netns").join(&self.name))?;
        let listener = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok::<_, io::Error>(listener)
        });
        let listener = listener.join().map_err(|_| io::Error::other("the thread panicked"))??;
        tokio::net::TcpListener::from_std(listener)
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        // The pair goes with the namespace that holds its other end.
        let _ = ip(&["netns", "del", &self.name]);
        let _ = ip(&["link", "del", &self.link]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}
