use std::sync::Mutex;

use certs::{ManualClock, Timestamp};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::*;
use crate::{Address, Addresses};

/// A Vault that lets everybody in, and the paths that it was asked for.
async fn vault(tasks: &mut JoinSet<()>) -> (Settings, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tasks.spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut octets = vec![0; 65536];
            let count = tcp.read(&mut octets).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&octets[..count]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default().trim_start_matches("/v1/").to_owned();
            let body = match path.as_str() {
                "auth/approle/login" => {
                    r#"{"auth":{"client_token":"t","lease_duration":3600,"renewable":true}}"#
                }
                "auth/token/lookup-self" => r#"{"data":{"ttl":3600}}"#,
                _ => "{}",
            };
            seen.lock().unwrap().push(path);
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = tcp.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    let address = Address::parse_insecure_loopback(&address).unwrap();
    (Settings::new(Addresses::try_new(vec![address]).unwrap(), "unused".into()), asked)
}

#[tokio::test]
async fn a_session_that_is_over_gives_its_token_back_unless_somebody_gave_it() {
    let secret = |text| Secret::of_text(text).unwrap();
    let approle = || Credentials::AppRole {
        mount: Mount::parse("approle").unwrap(),
        role: None,
        role_id: secret("r"),
        secret_id: SecretId::Plain(secret("s")),
    };
    let given = || Credentials::Token(Arc::new(secret("t")));
    let mut tasks = JoinSet::new();
    let (settings, asked) = vault(&mut tasks).await;
    let clock = Arc::new(ManualClock::new(Timestamp::EPOCH));
    let open = |credentials| Client::new(settings.clone(), credentials, None, clock.clone());
    let seen = || std::mem::take(&mut *asked.lock().unwrap());
    let back = "auth/token/revoke-self";
    let (login, lookup) = ("auth/approle/login", "auth/token/lookup-self");

    for (credentials, wanted) in [(approle(), vec![login, back]), (given(), vec![lookup])] {
        let (client, keeper) = open(credentials);
        let mut status = client.status();
        let work = async { status.wait_for(Status::is_logged_in).await.map(|_| 7).unwrap() };
        assert_eq!(
            (keeper.during(work).await, seen()),
            (7, wanted.iter().map(|path| path.to_string()).collect())
        );
    }
    for (credentials, wanted) in [(approle(), vec![login, back]), (given(), vec![lookup])] {
        let (client, keeper) = open(credentials);
        let mut status = client.status();
        let stop = CancellationToken::new();
        let grace = Duration::from_secs(30);
        let ended = keeper.run_and_give_back(stop.clone(), grace);
        tokio::pin!(ended);
        tokio::select! {
            () = &mut ended => panic!("nobody told it to stop"),
            status = status.wait_for(Status::is_logged_in) => drop(status.unwrap()),
        }
        stop.cancel();
        // Calls that are under way have their time.
        let is_over = futures::poll!(&mut ended).is_ready();
        assert_eq!((is_over, seen()), (wanted.len() == 1, vec![wanted[0].to_owned()]));
        if !is_over {
            clock.advance(grace);
            timeout(Duration::from_secs(10), ended).await.unwrap();
        }
        assert_eq!(seen(), wanted[1..]);
    }
    // Where nobody was let in, there is nothing to give.
    let (_client, keeper) = open(approle());
    keeper.during(async {}).await;
    assert!(seen().iter().all(|path| path != back));
}
