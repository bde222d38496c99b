use proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::*;
use crate::{Resource, TypeUrl, Version, subscription::Nonces};

fn response(sizes: &[usize], removed: &[&str]) -> Response {
    let resources = sizes.iter().enumerate().map(|(n, size)| {
        Arc::new(Resource::new(TypeUrl::Cluster, format!("c{n}"), vec![b'x'; *size], vec![]))
    });
    Response {
        type_url: TypeUrl::Cluster.as_str().into(),
        nonce: Nonces::new(10).next(),
        version: Some(Version::of(b"set")),
        resources: resources.collect(),
        removed: removed.iter().map(|name| Arc::from(*name)).collect(),
    }
}

fn pieces(response: &Response, delta: bool) -> Vec<Bytes> {
    let mut rope = Rope::of(response, delta, &"credence".into());
    std::iter::from_fn(|| rope.next()).collect()
}

fn message(response: &Response, delta: bool) -> Bytes {
    let mut deframer = Deframer::new(1 << 30);
    pieces(response, delta).iter().for_each(|piece| deframer.push(piece));
    let message = deframer.next().unwrap().unwrap();
    assert!(deframer.buffer.is_empty());
    message
}

/// xds.md 40, 122: the chain is the message that an ordinary encoder would have made.
#[test]
fn a_chain_of_segments_is_one_message() {
    for sizes in [&[][..], &[0], &[10, 20], &[5000], &[10, 70_000, 10, 5000, 5000, 1]] {
        let response = response(sizes, &["gone"]);
        let delta = DeltaDiscoveryResponse::decode(message(&response, true)).unwrap();
        assert_eq!(delta.nonce, "a.1");
        assert_eq!(delta.removed_resources, ["gone"]);
        assert_eq!(delta.control_plane.unwrap().identifier, "credence");
        let sotw = DiscoveryResponse::decode(message(&response, false)).unwrap();
        assert_eq!(sotw.version_info, Version::of(b"set").as_str());
        assert_eq!(sotw.type_url, TypeUrl::Cluster.as_str());
        for (n, resource) in response.resources.iter().enumerate() {
            assert_eq!(delta.resources[n].version, resource.version().as_str());
            assert_eq!(delta.resources[n].resource.as_ref(), Some(&sotw.resources[n]));
            assert_eq!(resource.to_any().as_ref(), Some(&sotw.resources[n]));
        }
    }
}

#[test]
fn large_resources_are_not_copied() {
    let response = response(&[100_000, 10, 10, 200_000], &[]);
    let pieces = pieces(&response, true);
    for large in [0, 3] {
        let field = response.resources[large].delta_field();
        assert!(pieces.iter().any(|piece| piece.as_ptr() == field.as_ptr()), "{large}");
    }
    assert_eq!(pieces.len(), 5, "header, large, two small ones, large, tail");
}

#[test]
fn messages_come_out_whole_however_they_arrive() {
    let request = DiscoveryRequest { type_url: "t".to_owned(), ..Default::default() }.encode_to_vec();
    let mut stream = Vec::new();
    for _ in 0..3 {
        stream.push(0);
        stream.extend_from_slice(&(request.len() as u32).to_be_bytes());
        stream.extend_from_slice(&request);
    }
    for step in [1, 2, 7, stream.len()] {
        let mut deframer = Deframer::new(1024);
        let mut found = 0;
        for piece in stream.chunks(step) {
            deframer.push(&Bytes::copy_from_slice(piece));
            while let Some(message) = deframer.next().unwrap() {
                assert_eq!(decode::<DiscoveryRequest>(message).unwrap().type_url, "t");
                found += 1;
            }
        }
        assert_eq!(found, 3, "in pieces of {step}");
    }
}

/// xds.md 14, 147.
#[test]
fn bad_frames_are_refused() {
    let check = |bytes: &[u8], expected: Refusal| {
        let mut deframer = Deframer::new(8);
        deframer.push(&Bytes::copy_from_slice(bytes));
        assert_eq!(deframer.next(), Err(expected));
    };
    check(&[1, 0, 0, 0, 0], Refusal::Compressed);
    check(&[0, 0, 0, 0, 9], Refusal::LongMessage { bytes: 9, limit: 8 });
    check(&[7, 0, 0, 0, 0], Refusal::Undecodable("frame flag 7".to_owned()));
}

/// xds.md 150: whatever strangers send.
#[test]
fn random_bytes_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let valid = DeltaDiscoveryRequest {
        type_url: TypeUrl::Cluster.as_str().to_owned(),
        resource_names_subscribe: vec!["a".to_owned(); 20],
        ..Default::default()
    }
    .encode_to_vec();
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 { valid.clone() } else { vec![0; (random() % 200) as usize] };
        for _ in 0..=random() % 8 {
            if !bytes.is_empty() {
                let at = (random() as usize) % bytes.len();
                bytes[at] = random() as u8;
            }
        }
        let bytes = Bytes::from(bytes);
        let _ = decode::<DiscoveryRequest>(bytes.clone());
        let _ = decode::<DeltaDiscoveryRequest>(bytes.clone());
        let mut deframer = Deframer::new(4096);
        deframer.push(&bytes);
        while let Ok(Some(_)) = deframer.next() {}
    }
    let nested = [0x0a; 10_000];
    assert!(decode::<DeltaDiscoveryRequest>(Bytes::copy_from_slice(&nested)).is_err());
}
