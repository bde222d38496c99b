//! Whatever an ACME server sends is read or refused, and what is read can be called, published and stored.
#![no_main]

use acme::{AccountFound, AuthorizationBody, Directory, OrderBody, Reply, Url, Window, judge, read_orders};

libfuzzer_sys::fuzz_target!(|input: (u16, String, String, String, &[u8])| {
    let (status, location, retry_after, link, body) = input;
    let reply = Reply {
        status,
        location: Some(location.clone()),
        retry_after: Some(retry_after),
        nonce: Some(location),
        links: vec![link],
        body: body.to_vec(),
    };
    let directory = Url::parse("https://acme.example/directory").expect("a URL");
    let is_ours = |url: &Url| assert!(url.is_tls() && Url::parse(url.as_str()).as_ref() == Ok(url));
    reply.links("alternate", &directory).iter().for_each(is_ours);
    let _ = (reply.retry_after(), reply.nonce());
    if let Err(trouble) = judge(reply.clone(), &directory) {
        assert!(!trouble.to_string().is_empty() && !trouble.hint().is_empty());
        assert!(trouble.to_string().len() < 16 * 1024);
    }
    if let Ok(read) = Directory::read(&reply, &directory) {
        [&read.new_nonce, &read.new_account, &read.new_order].into_iter().for_each(is_ours);
    }
    if let Ok((orders, next)) = read_orders(&reply, &directory) {
        orders.iter().chain(&next).for_each(is_ours);
    }
    if let Ok(found) = AccountFound::read(&reply, &directory) {
        is_ours(&found.url);
    }
    if let Ok(order) = OrderBody::read(&reply, &directory) {
        order.authorizations.iter().chain([&order.finalize]).chain(&order.certificate).for_each(is_ours);
    }
    if let Ok(authorization) = AuthorizationBody::read(&reply, &directory) {
        for challenge in &authorization.challenges {
            is_ours(&challenge.url);
            assert!(!challenge.token.contains(['/', '.', '%', '\r', '\n', ' ']));
        }
    }
    if let Ok(window) = Window::read(&reply) {
        assert!(window.start < window.end);
    }
});
