//! Updates of a zone (RFC 2136) over TCP, signed by a shared key, answers too (RFC 8945).

use std::{net::SocketAddr, time::Duration};

use certs::{SecretBytes, Timestamp};
use hickory_proto::{
    op::{Message, ResponseCode, update_message},
    rr::{
        Name, RData, Record, RecordSet, RecordType, TSigner,
        rdata::{
            TXT,
            tsig::{TsigAlgorithm, TsigError},
        },
    },
    serialize::binary::BinEncodable,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Deed;

/// How far the server's clock may be from ours, in seconds (RFC 8945 10).
const FUDGE: u16 = 300;
/// How long others may keep the record, in seconds: an authority looks once.
const TTL: u32 = 60;
/// What no record of a challenge says: to take that away changes nothing, and needs all that publishing needs.
const PROBE: &str = "credence asks whether its key may update this record";
/// How long a trial may take: the call that judges has ten seconds, six of them for a directory.
const TRIAL: Duration = Duration::from_secs(3);
/// The algorithms by which updates are signed.
pub(super) const ALGORITHMS: [(&str, TsigAlgorithm); 3] = [
    ("hmac-sha256", TsigAlgorithm::HmacSha256),
    ("hmac-sha384", TsigAlgorithm::HmacSha384),
    ("hmac-sha512", TsigAlgorithm::HmacSha512),
];

/// A zone at a name server, and by which key it is updated.
pub(in super::super) struct Zone {
    server: SocketAddr,
    name: Name,
    key_name: Name,
    algorithm: TsigAlgorithm,
}

impl Zone {
    /// Nothing is sent.
    ///
    /// # Errors
    /// In words, of what does not read.
    pub(in super::super) fn parse(
        server: &str,
        zone: &str,
        key_name: &str,
        algorithm: &str,
    ) -> Result<Self, String> {
        let server = server.parse().map_err(|_| format!("{server:?} is no ADDRESS:PORT"))?;
        let known = ALGORITHMS.into_iter().find(|(word, _)| *word == algorithm);
        let (_, algorithm) = known.ok_or_else(|| {
            let words = ALGORITHMS.map(|(word, _)| word).join(", ");
            format!("{algorithm:?} is none of the algorithms {words}")
        })?;
        Ok(Self { server, name: absolute(zone)?, key_name: absolute(key_name)?, algorithm })
    }

    /// The server that takes updates of it.
    pub(in super::super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// What it is called.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Whether a record stands in it.
    pub(in super::super) fn holds(&self, record: &str) -> bool {
        absolute(record).is_ok_and(|record| self.name.zone_of(&record))
    }

    /// Has the server publish a TXT record, or publish it no more; either may be so already.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn send(
        &self,
        deed: Deed,
        record: &str,
        value: &str,
        key: &SecretBytes,
        now: Timestamp,
    ) -> Result<(), String> {
        self.ask(self.message(deed, record, value)?, key, now).await
    }

    /// Whether the server would publish these: has it take away from each what is not
    /// there. A server looks at the key, the zone and what the key may do before it looks whether there is anything to
    /// do (RFC 2136 3.1 to 3.4), and ignores what is not there: nothing changes, whenever this ends.
    ///
    /// # Errors
    /// In words, and soon.
    pub(in super::super) async fn examine(
        &self,
        records: &[String],
        key: &SecretBytes,
        now: Timestamp,
    ) -> Result<(), String> {
        let [first, rest @ ..] = records else { return Ok(()) };
        let mut message = self.message(Deed::Withdraw, first, PROBE)?;
        for record in rest {
            message.authorities.append(&mut self.message(Deed::Withdraw, record, PROBE)?.authorities);
        }
        let late = || format!("name server {} did not answer within {} s", self.server, TRIAL.as_secs());
        tokio::time::timeout(TRIAL, self.ask(message, key, now)).await.map_err(|_| late())?
    }

    /// One update and its answer.
    async fn ask(&self, mut message: Message, key: &SecretBytes, now: Timestamp) -> Result<(), String> {
        let server = self.server;
        let key = key.expose_secret().to_vec();
        let signer = TSigner::new(key, self.algorithm.clone(), self.key_name.clone(), FUDGE);
        let signer = signer.map_err(|error| error.to_string())?;
        let id = message.id;
        let seconds = u64::try_from(now.unix_secs()).unwrap_or_default();
        let verifier = message.finalize(&signer, seconds).map_err(|error| error.to_string())?;
        let sent = message.to_bytes().map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(server).await;
        let mut stream =
            stream.map_err(|error| format!("name server {server} cannot be reached: {error}"))?;
        let answer = exchange(&mut stream, &sent).await;
        let answer = answer.map_err(|error| format!("name server {server} gave no answer: {error}"))?;
        // A server that refuses the key does not sign, and says so (RFC 8945 5.2).
        let unsigned =
            Message::from_vec(&answer).map_err(|error| format!("name server {server}: {error}"))?;
        if unsigned.response_code != ResponseCode::NoError {
            return Err(self.refusal(&unsigned));
        }
        let mut verifier = verifier.ok_or("the update was not signed")?;
        let verified = verifier.verify(&answer);
        verified.map_err(|error| {
            format!("the answer of name server {server} is not signed by the key: {error}")
        })?;
        if unsigned.id != id {
            return Err(format!("name server {server} answered something else"));
        }
        Ok(())
    }

    /// What the server did not like.
    fn refusal(&self, answer: &Message) -> String {
        let [zone, key] =
            [&self.name, &self.key_name].map(|name| name.to_ascii().trim_end_matches('.').to_owned());
        // What is wrong with the key stands beside the code (RFC 8945 5.2).
        let of_key = answer.signature.as_ref().and_then(|signature| signature.data.error);
        let (code, why) = match (answer.response_code, of_key) {
            (_, Some(TsigError::BadKey)) => (
                "BADKEY".to_owned(),
                format!(": it knows no key {key} of this algorithm, {}", self.algorithm),
            ),
            (_, Some(TsigError::BadSig)) => {
                ("BADSIG".to_owned(), format!(": its key {key} is another than the one that was given"))
            }
            (_, Some(TsigError::BadTime)) => (
                "BADTIME".to_owned(),
                format!(": its clock is more than {FUDGE} s from that of this server, set both right"),
            ),
            (ResponseCode::NotAuth, _) => (
                "NOTAUTH".to_owned(),
                format!(": it is no primary of zone {zone}, or does not know the key {key}"),
            ),
            (ResponseCode::NotZone, _) => {
                ("NOTZONE".to_owned(), format!(": the record is not of zone {zone}"))
            }
            (ResponseCode::Refused, _) => (
                "REFUSED".to_owned(),
                format!(
                    ": let the key {key} update TXT records of zone {zone}, if that is a zone of this server"
                ),
            ),
            (code, _) => (code.to_string(), String::new()),
        };
        format!("name server {} answered {code}{why}", self.server)
    }

    fn message(&self, deed: Deed, record: &str, value: &str) -> Result<Message, String> {
        let name = absolute(record)?;
        if !self.name.zone_of(&name) {
            return Err(format!("{record} does not stand in zone {}", self.name));
        }
        let data = RData::TXT(TXT::new(vec![value.to_owned()]));
        let mut set = RecordSet::new(name.clone(), RecordType::TXT, 0);
        set.insert(Record::from_rdata(name, TTL, data), 0);
        Ok(match deed {
            Deed::Publish => update_message::append(set, self.name.clone(), false, false),
            Deed::Withdraw => update_message::delete_by_rdata(set, self.name.clone(), false),
        })
    }
}

pub(super) fn absolute(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|error| format!("{text:?} is no DNS name: {error}"))?;
    name.set_fqdn(true);
    Ok(name)
}

/// One message and its answer, each with its length before it (RFC 1035 4.2.2).
pub(super) async fn exchange(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_read_is_refused_before_anything_is_sent() {
        let check = |server: &str, zone: &str, algorithm: &str, expected: &str| {
            let refused = Zone::parse(server, zone, "key", algorithm).err();
            assert!(refused.as_ref().is_some_and(|why| why.contains(expected)), "{refused:?} {expected}");
        };
        check("ns.example:53", "shop.example", "hmac-sha256", "no ADDRESS:PORT");
        check("192.0.2.1:53", "shop..example", "hmac-sha256", "no DNS name");
        check("192.0.2.1:53", "shop.example", "hmac-md5", "hmac-sha256, hmac-sha384");
        let zone = Zone::parse("192.0.2.1:53", "shop.example", "key", "hmac-sha256").unwrap();
        assert!(zone.holds("_acme-challenge.www.shop.example"));
        assert!(!zone.holds("_acme-challenge.other.example"));
        assert!(zone.message(Deed::Publish, "_acme-challenge.other.example", "value").is_err());
    }
}
