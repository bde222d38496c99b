//! A TCP line to a server, which a test makes slow or cuts. What is said on it, nobody here knows.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// What the line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Carries everything; answers come so much later.
    Late(Duration),
    /// Carries nothing, and nobody listens.
    Cut,
}

/// Between two tries to listen again where a line was cut.
const AGAIN: Duration = Duration::from_millis(20);
/// Parts of an answer that are under way at most.
const UNDER_WAY: usize = 256;

/// One line, from a port on loopback. Dropping it cuts it.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    state: watch::Sender<State>,
    _tasks: JoinSet<()>,
}

impl Line {
    /// To `target`; quick at first.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("bind: {error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let state = watch::Sender::new(State::Late(Duration::ZERO));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, address, target, state.subscribe()));
        Self { address, state, _tasks: tasks }
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on each part of an answer comes so much later, on connections that are open as well.
    pub fn slow(&self, by: Duration) {
        self.state.send_replace(State::Late(by));
    }

    /// Ends every connection, and takes no other.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Carries everything again, at once.
    pub fn mend(&self) {
        self.slow(Duration::ZERO);
    }
}

async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut state: watch::Receiver<State>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let is_cut = *state.borrow_and_update() == State::Cut;
        if is_cut {
            (listener, connections) = (None, JoinSet::new());
            if state.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            match TcpListener::bind(address).await {
                Ok(again) => listener = Some(again),
                // Somebody else has the port for a moment.
                Err(_) => sleep(AGAIN).await,
            }
            continue;
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(carry(client, target, state.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until the server ends it.
async fn carry(client: TcpStream, target: SocketAddr, state: watch::Receiver<State>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut asks, answers), (says, mut hears)) = (client.into_split(), server.into_split());
    let there = async {
        let _ = io::copy(&mut asks, &mut hears).await;
        let _ = hears.shutdown().await;
        std::future::pending::<()>().await;
    };
    let (send, receive) = mpsc::channel(UNDER_WAY);
    tokio::select! {
        () = there => {}
        () = async { tokio::join!(read(says, state, send), write(receive, answers)); } => {}
    }
}

async fn read(
    mut from: OwnedReadHalf,
    state: watch::Receiver<State>,
    send: mpsc::Sender<(Instant, Vec<u8>)>,
) {
    let mut part = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut part).await {
        let late = match *state.borrow() {
            State::Late(by) => by,
            State::Cut => return,
        };
        if send.send((Instant::now() + late, part[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn write(mut receive: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf) {
    while let Some((at, part)) = receive.recv().await {
        sleep_until(at).await;
        if to.write_all(&part).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
