//! `expose`: a service behind mTLS on one node, by a `ProxyConfig` that is written here and applied like any other.

use std::net::IpAddr;

use api::wire;
use serde_json::{Value, json};
use spiffe::{NODE_LABEL, Namespace};

use super::documents::print_plan;
use crate::{
    cli::{ExposeArgs, Mtls},
    client::{Client, encode},
    output::{Exit, Failure, note},
};

pub(super) async fn run(args: &ExposeArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let proxy: wire::Proxy = client.get(&format!("/proxies/{}", encode(&args.on))).await?;
    let text = documents(args, &proxy.namespace)?;
    let how = format!("&dry_run={}&reason={}", args.change.dry_run, encode("credence expose"));
    let path = format!("/apply?namespace={}&file=expose{how}", encode(&proxy.namespace));
    let plan: wire::Plan = client.post_text(&path, text).await?;
    let exit = print_plan(&args.change, &plan)?;
    if !args.change.dry_run {
        note(&next(args, &proxy.namespace));
    }
    Ok(exit)
}

/// What to do then. The documents went to the namespace of the node, where nobody else looks by default.
fn next(args: &ExposeArgs, namespace: &str) -> String {
    let is_default = namespace == Namespace::default().as_str();
    let there = if is_default { String::new() } else { format!(" -n {namespace}") };
    format!("next: credence proxy watch {} --until-synced; credence verify {}{there}", args.on, args.name)
}

/// What the URL names.
#[derive(Debug, PartialEq, Eq)]
struct Upstream {
    is_http: bool,
    host: String,
    port: u16,
}

fn upstream(url: &str) -> Result<Upstream, Failure> {
    let bad = |why: &str| {
        Failure::usage(format!("{url:?} {why}"), "write http://127.0.0.1:3001, or tcp://db.internal:5432")
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("has no scheme"))?;
    let (is_http, default_port) = match scheme {
        "http" => (true, Some(80)),
        "tcp" => (false, None),
        "https" => return Err(bad("is TLS already: Credence puts mTLS before plaintext services")),
        _ => return Err(bad("is neither http nor tcp")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(bad("has more than a host and a port"));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && (!host.starts_with('[') || host.ends_with(']')) => {
            (host, Some(port.parse::<u16>().map_err(|_| bad("has a bad port"))?))
        }
        _ => (rest, None),
    };
    let port = port.or(default_port).filter(|port| *port != 0).ok_or_else(|| bad("has no port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(bad("has no host"));
    }
    Ok(Upstream { is_http, host: host.to_owned(), port })
}

fn listen(text: &str) -> Result<(String, u16), Failure> {
    let bad = || Failure::usage(format!("--listen {text:?} is no port"), "write 8443, or 127.0.0.1:8443");
    let (address, port) = text.rsplit_once(':').unwrap_or(("0.0.0.0", text));
    let address: IpAddr = address.trim_matches(['[', ']']).parse().map_err(|_| bad())?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    Ok((address.to_string(), port))
}

/// The documents as YAML: a `ProxyConfig`, and `Endpoints` where the upstream is an address.
fn documents(args: &ExposeArgs, namespace: &str) -> Result<String, Failure> {
    let upstream = upstream(&args.url)?;
    let (address, port) = listen(&args.listen)?;
    let name = &args.name;
    let endpoint = json!([{"address": upstream.host, "port": upstream.port}]);
    let is_address = upstream.host.parse::<IpAddr>().is_ok();
    let cluster = if is_address {
        json!({"name": name, "type": "EDS"})
    } else {
        json!({"name": name, "type": "STRICT_DNS", "endpoints": endpoint})
    };
    let filter = if upstream.is_http {
        json!({"name": "envoy.filters.network.http_connection_manager", "config": {"routeConfig": name}})
    } else {
        json!({"name": "envoy.filters.network.tcp_proxy", "config": {"cluster": name}})
    };
    let mut spec = json!({
        "selector": {"matchLabels": {NODE_LABEL: args.on}},
        "listeners": [{
            "name": name,
            "address": address,
            "port": port,
            "mtls": mtls(args),
            "filterChains": [{"filters": [filter]}],
        }],
        "clusters": [cluster],
    });
    if upstream.is_http {
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": name}});
        spec["routes"] =
            json!([{"name": name, "virtualHosts": [{"name": name, "domains": ["*"], "routes": [route]}]}]);
    }
    let mut text = document("ProxyConfig", name, namespace, &spec)?;
    if is_address {
        text.push_str("---\n");
        text.push_str(&document("Endpoints", name, namespace, &json!({"endpoints": endpoint}))?);
    }
    Ok(text)
}

fn mtls(args: &ExposeArgs) -> Value {
    let mode = match args.mtls {
        Mtls::Strict => "strict",
        Mtls::Permissive => "permissive",
        Mtls::Off => "off",
    };
    let mut mtls = json!({"mode": mode});
    if !args.allow.is_empty() {
        mtls["allow"] = json!(args.allow);
    }
    if let Some(identity) = &args.identity {
        mtls["identity"] = json!(identity);
    }
    mtls
}

fn document(kind: &str, name: &str, namespace: &str, spec: &Value) -> Result<String, Failure> {
    let document = json!({
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    });
    let text = serde_saphyr::to_string(&document);
    text.map(|text| if text.ends_with('\n') { text } else { text + "\n" })
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write the document: {error}"), ""))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use xds::{catalog, model, validate::Context};

    use super::*;
    use crate::cli::{Cli, Command, Operate};

    fn args(line: &str) -> ExposeArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Operate(Operate::Expose(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn writes_documents_that_apply_accepts() {
        let domain = spiffe::TrustDomain::parse("td.example").unwrap();
        for line in [
            "credence expose http://127.0.0.1:3001 --as web --on web-1 --listen 8443",
            "credence expose http://127.0.0.1:3001/ --as web --on web-1 --listen 8443 --allow spiffe://td.example/a",
            "credence expose tcp://db.internal:5432 --as db --on web-1 --listen 127.0.0.1:9443 --mtls permissive",
            "credence expose http://[::1]:3001 --as web --on web-1 --listen 8443 --mtls off",
        ] {
            let text = documents(&args(line), "default").unwrap();
            let documents = model::parse("expose", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            catalog::check(documents, Context::strict(domain.clone()))
                .unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }

    #[test]
    fn the_next_command_looks_where_the_documents_are() {
        let args = args("credence expose http://127.0.0.1:3001 --as web --on web-1 --listen 8443");
        assert!(next(&args, "default").ends_with("credence verify web"));
        let line = next(&args, "team-a");
        let verify = line.split("; ").last().unwrap();
        match Cli::try_parse_from(verify.split(' ')).unwrap().command {
            Command::Operate(Operate::Verify(verify)) => {
                assert_eq!((verify.name.as_str(), verify.namespace.as_str()), ("web", "team-a"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refuses_urls_that_it_cannot_put_behind_mtls() {
        let check = |url: &str, words: &str| {
            let failure = upstream(url).unwrap_err();
            assert!(failure.message.contains(words), "{}", failure.message);
            assert_eq!(failure.exit, Exit::Usage);
        };
        check("127.0.0.1:80", "no scheme");
        check("https://a", "TLS already");
        check("ftp://a", "neither");
        check("tcp://a", "no port");
        check("http://a/b", "more than");
        check("http://:80", "no host");
        check("http://a:99999", "bad port");
        assert_eq!(upstream("http://a").unwrap(), Upstream { is_http: true, host: "a".into(), port: 80 });
        assert_eq!(listen("8443").unwrap(), ("0.0.0.0".into(), 8443));
        assert!(listen("http").is_err());
    }
}
