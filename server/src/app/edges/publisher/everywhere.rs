//! Whether every name server of a zone has a record. One of them takes updates and answers when it has taken one itself;
//! an authority asks any of them, and what it does not find once is not looked for again.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::future::join_all;
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
    serialize::binary::BinEncodable,
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::update::{Zone, absolute, exchange};

/// Where name servers are asked.
pub(super) const PORT: u16 = 53;
/// How long one answer may take. Whoever takes longer is not waited for.
const ANSWER: Duration = Duration::from_secs(3);
/// How often a server is asked that does not have all.
const LOOK: Duration = Duration::from_millis(500);
/// The most servers that are asked.
const MAX_SERVERS: usize = 32;

/// What one server says of the records.
enum Seen {
    /// It has them all.
    All,
    /// It answers for the zone, and does not have this one.
    Lacks(String),
    /// It is not reached, or does not answer for the zone: whoever asks goes to another then.
    Nothing(String),
}

impl Zone {
    /// Comes back when each of its name servers that can be asked at `port` has all of these TXT records.
    ///
    /// # Errors
    /// In words, of the first that does not have them by `until`.
    pub(super) async fn await_everywhere(
        &self,
        records: &[(String, String)],
        port: u16,
        until: Instant,
    ) -> Result<(), String> {
        let servers = timeout_at(until, self.name_servers(port)).await.unwrap_or_default();
        // It has said that it has them.
        let others = servers.into_iter().filter(|(_, server)| *server != self.server()).take(MAX_SERVERS);
        let waits = others.map(|(name, server)| wait(name, server, records, until));
        join_all(waits).await.into_iter().collect()
    }

    /// The addresses of those that the zone names, as the server that takes updates knows them.
    async fn name_servers(&self, port: u16) -> BTreeSet<(String, SocketAddr)> {
        let asked = async {
            let mut stream = TcpStream::connect(self.server()).await.map_err(|error| error.to_string())?;
            let mut found = BTreeSet::new();
            for host in self.hosts(&mut stream).await? {
                let name = host.to_ascii().trim_end_matches('.').to_owned();
                // Those of the zone itself need no resolver, and have addresses before anybody else knows them.
                let addresses = match self.name().zone_of(&host) {
                    true => addresses(&mut stream, &host).await?,
                    false => resolved(&name, port).await,
                };
                found.extend(addresses.into_iter().map(|ip| (name.clone(), SocketAddr::new(ip, port))));
            }
            Ok::<_, String>(found)
        };
        asked.await.unwrap_or_else(|why| {
            tracing::info!(zone = %self.name(), why, "which other name servers the zone has is not known");
            BTreeSet::new()
        })
    }

    async fn hosts(&self, stream: &mut TcpStream) -> Result<Vec<Name>, String> {
        let answer = ask(stream, self.name(), RecordType::NS).await?;
        let host = |data: &RData| match data {
            RData::NS(host) => Some(host.0.clone()),
            _ => None,
        };
        Ok(answer.answers.iter().filter_map(|record| host(&record.data)).take(MAX_SERVERS).collect())
    }
}

/// Until one server has them all, or says nothing at all.
async fn wait(
    name: String,
    server: SocketAddr,
    records: &[(String, String)],
    until: Instant,
) -> Result<(), String> {
    let mut lacking = None;
    let looks = async {
        loop {
            match look(server, records).await {
                Seen::All => return,
                Seen::Nothing(why) if lacking.is_none() => {
                    tracing::info!(name_server = name, %server, why, "a name server is not waited for");
                    return;
                }
                Seen::Nothing(_) => {}
                Seen::Lacks(record) => lacking = Some(record),
            }
            sleep(LOOK).await;
        }
    };
    match timeout_at(until, looks).await {
        Ok(()) => Ok(()),
        // Not even one answer came until then.
        Err(_) => lacking.map_or(Ok(()), |record| {
            Err(format!(
                "name server {name} ({server}) does not have {record} yet: is it told of changes (NOTIFY), and may it \
                 transfer the zone?"
            ))
        }),
    }
}

async fn look(server: SocketAddr, records: &[(String, String)]) -> Seen {
    let mut stream = match timeout(ANSWER, TcpStream::connect(server)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Seen::Nothing(error.to_string()),
        Err(_) => return Seen::Nothing(late()),
    };
    for (record, value) in records {
        let name = match absolute(record) {
            Ok(name) => name,
            Err(why) => return Seen::Nothing(why),
        };
        let answer = match ask(&mut stream, &name, RecordType::TXT).await {
            Ok(answer) => answer,
            Err(why) => return Seen::Nothing(why),
        };
        let code = answer.response_code;
        if !answer.authoritative || !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Seen::Nothing(format!("it does not answer for {record}: {code}"));
        }
        let is_it = |data: &RData| match data {
            RData::TXT(text) => text.txt_data.concat() == value.as_bytes(),
            // What stands elsewhere is for others to say.
            RData::CNAME(_) => true,
            _ => false,
        };
        if !answer.answers.iter().any(|one| is_it(&one.data)) {
            return Seen::Lacks(record.clone());
        }
    }
    Seen::All
}

/// One question, without recursion, and its answer.
async fn ask(stream: &mut TcpStream, name: &Name, kind: RecordType) -> Result<Message, String> {
    let mut message = Message::query();
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(name.clone(), kind));
    let sent = message.to_bytes().map_err(|error| error.to_string())?;
    let answer = timeout(ANSWER, exchange(stream, &sent)).await.map_err(|_| late())?;
    let answer = Message::from_vec(&answer.map_err(|error| error.to_string())?);
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.id == message.id { Ok(answer) } else { Err("it answered something else".to_owned()) }
}

async fn addresses(stream: &mut TcpStream, host: &Name) -> Result<Vec<IpAddr>, String> {
    let mut all = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = ask(stream, host, kind).await?;
        all.extend(answer.answers.iter().filter_map(|one| match &one.data {
            RData::A(ip) => Some(IpAddr::V4(ip.0)),
            RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
            _ => None,
        }));
    }
    Ok(all)
}

/// As this host resolves it.
async fn resolved(host: &str, port: u16) -> Vec<IpAddr> {
    match timeout(ANSWER, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

fn late() -> String {
    format!("no answer within {} s", ANSWER.as_secs())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use hickory_proto::rr::{
        Record,
        rdata::{A, NS, TXT},
    };
    use tokio::net::TcpListener;

    use super::*;

    const RECORD: &str = "_acme-challenge.www.shop.example";

    /// A name server that says what `says` says, asked for the how manyeth TXT record.
    #[expect(clippy::disallowed_methods, reason = "the name server runs beside the test")]
    fn serve(listener: TcpListener, says: impl Fn(&Query, usize, &mut Message) + Send + Sync + 'static) {
        let (says, count) = (Arc::new(says), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (says, count) = (Arc::clone(&says), Arc::clone(&count));
                tokio::spawn(async move {
                    use tokio::io::{AsyncReadExt, AsyncWriteExt};
                    while let Ok(length) = stream.read_u16().await {
                        let mut asked = vec![0; usize::from(length)];
                        stream.read_exact(&mut asked).await.unwrap();
                        let asked = Message::from_vec(&asked).unwrap();
                        let query = asked.queries[0].clone();
                        let mut answer = Message::response(asked.id, asked.op_code);
                        answer.metadata.authoritative = true;
                        let is_text = query.query_type() == RecordType::TXT;
                        let number = if is_text { count.fetch_add(1, Ordering::Relaxed) } else { 0 };
                        says(&query, number, &mut answer);
                        answer.add_query(query);
                        let answer = answer.to_bytes().unwrap();
                        stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
    }

    fn record(name: &str, data: RData) -> Record {
        Record::from_rdata(absolute(name).unwrap(), 60, data)
    }

    /// A zone whose primary, the one that takes updates, names itself and a secondary at 127.0.0.2.
    async fn zone() -> (Zone, u16, Option<TcpListener>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let secondary = TcpListener::bind(("127.0.0.2", address.port())).await.ok();
        serve(listener, |query, _, answer| {
            let host = query.name().to_ascii();
            match (query.query_type(), host.as_str()) {
                (RecordType::NS, _) => answer.answers.extend(["ns1", "ns2"].map(|one| {
                    let host = absolute(&format!("{one}.shop.example")).unwrap();
                    record("shop.example", RData::NS(NS(host)))
                })),
                (RecordType::A, "ns1.shop.example.") => {
                    answer.answers.push(record(&host, RData::A(A("127.0.0.1".parse().unwrap()))));
                }
                (RecordType::A, _) => {
                    answer.answers.push(record(&host, RData::A(A("127.0.0.2".parse().unwrap()))));
                }
                // Who took the update is not asked for it: it has none here.
                _ => {}
            }
        });
        let zone = Zone::parse(&address.to_string(), "shop.example", "key", "hmac-sha256").unwrap();
        (zone, address.port(), secondary)
    }

    async fn wait_for(zone: &Zone, port: u16, secs: u64) -> Result<(), String> {
        let records = [(RECORD.to_owned(), "value".to_owned())];
        zone.await_everywhere(&records, port, Instant::now() + Duration::from_secs(secs)).await
    }

    fn text(value: &str) -> Record {
        record(RECORD, RData::TXT(TXT::new(vec![value.to_owned()])))
    }

    #[tokio::test]
    async fn a_secondary_is_waited_for_until_it_has_the_record() {
        let (zone, port, secondary) = zone().await;
        let looks = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&looks);
        serve(secondary.unwrap(), move |_, number, answer| {
            seen.store(number, Ordering::Relaxed);
            match number {
                0 => answer.metadata.response_code = ResponseCode::NXDomain,
                1 => answer.answers.push(text("of an order before")),
                _ => answer.answers.extend([text("of an order before"), text("value")]),
            }
        });
        wait_for(&zone, port, 30).await.unwrap();
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_secondary_that_does_not_get_the_record_is_named() {
        let (zone, port, secondary) = zone().await;
        serve(secondary.unwrap(), |_, _, _| {});
        let why = wait_for(&zone, port, 1).await.unwrap_err();
        assert!(why.contains("ns2.shop.example (127.0.0.2:") && why.contains(RECORD), "{why}");
    }

    #[tokio::test]
    async fn whoever_is_not_there_or_does_not_answer_for_the_zone_holds_nothing_up() {
        let begun = Instant::now();
        let (gone, port, secondary) = zone().await;
        drop(secondary);
        wait_for(&gone, port, 30).await.unwrap();
        let (lame, port, secondary) = zone().await;
        serve(secondary.unwrap(), |_, _, answer| answer.metadata.authoritative = false);
        wait_for(&lame, port, 30).await.unwrap();
        // Nor does a server of updates that says nothing of its zone.
        let silent = Zone::parse("127.0.0.1:1", "shop.example", "key", "hmac-sha256").unwrap();
        wait_for(&silent, port, 30).await.unwrap();
        assert!(begun.elapsed() < ANSWER, "nobody is waited for");
    }
}
