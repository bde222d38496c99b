//! Over loopback in the clear: which address is asked, and how often.

use certs::{Csr, KeyKind, ManualClock, SecretKey};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::*;
use crate::{Name, pki};

/// One address of a Vault. Each connection serves one request.
struct Node {
    address: Address,
    asked: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Node {
    /// Answers each request alike; without an answer it reads, and says nothing.
    async fn start(answer: Option<(u16, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!("http://{}", listener.local_addr().unwrap());
        let (asked, mut task) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let count = Arc::clone(&asked);
        task.spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut tcp, _)) = listener.accept().await {
                if tcp.read(&mut [0; 65536]).await.is_ok_and(|count| count > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                let Some((status, body)) = answer else {
                    silent.push(tcp);
                    continue;
                };
                let length = body.len();
                let text = format!(
                    "HTTP/1.1 {status} \r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                let _ = tcp.write_all(text.as_bytes()).await;
            }
        });
        Self { address: Address::parse_insecure_loopback(&text).unwrap(), asked, _task: task }
    }

    /// How often since it was asked about last.
    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }
}

fn transport(addresses: Vec<Address>) -> Transport {
    let settings = Settings::new(Addresses::try_new(addresses).unwrap(), PathBuf::from("unused"));
    let settings = Settings { timeout: Duration::from_millis(300), ..settings };
    Transport::new(settings, Arc::new(ManualClock::new(Timestamp::EPOCH)))
}

/// What may not be sent twice.
fn signature() -> Request {
    let issuer = pki::Issuer { mount: Mount::parse("pki").unwrap(), id: Name::parse("i").unwrap() };
    let csr = Csr::build(&SecretKey::generate(KeyKind::P256));
    issuer.sign(&Name::parse("svid").unwrap(), &csr, "spiffe://td/web", Duration::from_secs(3600))
}

#[tokio::test]
async fn after_a_lost_answer_to_a_signature_the_next_address_is_asked_first() {
    let (dead, silent, good) =
        ("http://127.0.0.1:9", Node::start(None).await, Node::start(Some((200, "{}"))).await);
    let dead = Address::parse_insecure_loopback(dead).unwrap();
    let transport = transport(vec![dead, silent.address.clone(), good.address.clone()]);
    let trouble = transport.send(&signature(), None).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Lost { address, .. } if *address == silent.address), "{trouble}");
    // Not sent to another one by itself.
    assert_eq!((silent.asked(), good.asked()), (1, 0));
    for _ in 0..2 {
        transport.send(&signature(), None).await.unwrap();
        assert_eq!((silent.asked(), good.asked()), (0, 1));
    }
}

#[tokio::test]
async fn a_lost_answer_that_comes_late_leaves_the_address_that_was_found_good_meanwhile() {
    let (silent, good) = (Node::start(None).await, Node::start(Some((200, "{}"))).await);
    let other = Node::start(None).await;
    let transport = transport(vec![silent.address.clone(), other.address.clone(), good.address.clone()]);
    let found = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        transport.preferred.store(2, Ordering::Relaxed);
    };
    let request = signature();
    let (lost, ()) = tokio::join!(transport.send(&request, None), found);
    assert!(matches!(lost, Err(Trouble::Lost { .. })), "{lost:?}");
    transport.send(&signature(), None).await.unwrap();
    assert_eq!((silent.asked(), other.asked(), good.asked()), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_too_many_is_told_so_in_time_and_the_session_does_not_wait() {
    // Port 9 of an address that is nobody's: nothing is listening there.
    let address = Address::parse_insecure_loopback("http://127.0.0.1:9").unwrap();
    let settings = Settings::new(Addresses::try_new(vec![address]).unwrap(), PathBuf::from("unused"));
    let limit = settings.timeout;
    let transport = Transport::new(settings, Arc::new(ManualClock::new(Timestamp::EPOCH)));
    let mount = Mount::parse("pki").unwrap();
    let request = pki::read_role(&mount, &Name::parse("svid").unwrap());
    let all = transport.in_flight.acquire_many(u32::try_from(MAX_IN_FLIGHT).unwrap()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let trouble = transport.send(&request, None).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Busy { retry_after: None, .. }), "{trouble}");
    assert_eq!((begun.elapsed().as_secs(), trouble.remedy()), (limit.as_secs(), Remedy::Later));
    let own = transport.send(&pki::list(&mount), None).await.unwrap_err();
    assert!(matches!(own, Trouble::Unreachable { .. }), "{own}");
    drop(all);
    let trouble = transport.send(&request, None).await.unwrap_err();
    assert!(matches!(trouble, Trouble::Unreachable { .. }), "{trouble}");
}

#[tokio::test]
async fn a_signature_that_a_gateway_passed_on_in_vain_is_not_asked_of_another_address_by_itself() {
    let forwarding = r#"{"errors":["error while forwarding request"]}"#;
    for (status, body) in [(502, "<html>"), (504, "<html>"), (500, forwarding)] {
        let (gateway, good) = (Node::start(Some((status, body))).await, Node::start(Some((200, "{}"))).await);
        let transport = transport(vec![gateway.address.clone(), good.address.clone()]);
        let trouble = transport.send(&signature(), None).await.unwrap_err();
        assert!(trouble.is_outcome_unknown(), "{trouble}");
        assert_eq!((gateway.asked(), good.asked()), (1, 0), "{status}");
        transport.send(&signature(), None).await.unwrap();
        assert_eq!((gateway.asked(), good.asked()), (0, 1), "{status}");
    }
    // Who passes nothing on keeps nobody from the next one, and what may be sent twice is.
    let (gateway, good) = (Node::start(Some((503, ""))).await, Node::start(Some((200, "{}"))).await);
    transport(vec![gateway.address.clone(), good.address.clone()]).send(&signature(), None).await.unwrap();
    let gateway = Node::start(Some((504, ""))).await;
    let read = pki::list(&Mount::parse("pki").unwrap());
    transport(vec![gateway.address.clone(), good.address.clone()]).send(&read, None).await.unwrap();
    assert_eq!((gateway.asked(), good.asked()), (1, 2));
}

#[tokio::test]
async fn addresses_without_a_connection_cost_a_moment_each_and_not_their_time() {
    let (off, good) = (fixtures::Silent::start().unwrap(), Node::start(Some((200, "{}"))).await);
    let off_too = fixtures::Silent::start().unwrap();
    let at = |silent: &fixtures::Silent| {
        Address::parse_insecure_loopback(&format!("http://{}", silent.address().unwrap())).unwrap()
    };
    let addresses = Addresses::try_new(vec![at(&off), at(&off_too), good.address.clone()]).unwrap();
    let settings = Settings { timeout: Duration::from_secs(60), ..Settings::new(addresses, PathBuf::new()) };
    let transport = Transport::new(settings, Arc::new(ManualClock::new(Timestamp::EPOCH)));
    let patience = Duration::from_secs(5);
    for _ in 0..2 {
        timeout(patience, transport.send(&signature(), None)).await.unwrap().unwrap();
        assert_eq!(good.asked(), 1);
    }
    // Where none can be reached, their time bounds it, and not the sum of their times.
    let addresses = Addresses::try_new(vec![at(&off), at(&off_too)]).unwrap();
    let settings = Settings { timeout: Duration::from_secs(3), ..Settings::new(addresses, PathBuf::new()) };
    let transport = Transport::new(settings, Arc::new(ManualClock::new(Timestamp::EPOCH)));
    let trouble = timeout(patience, transport.send(&signature(), None)).await.unwrap().unwrap_err();
    assert!(matches!(trouble, Trouble::Unreachable { .. }), "{trouble}");
}
