//! The description of the API (OpenAPI 3.1): schemas from the types of [`crate::wire`], addresses from the table
//! of [`crate::access`] and from [`ROUTES`], which says what each takes and answers. A golden file keeps it.

use axum::Json;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use crate::{access, problem, wire};

#[derive(OpenApi)]
#[openapi(components(schemas(
    problem::Problem,
    problem::Fault,
    wire::Config,
    wire::Plan,
    wire::PlanItem,
    wire::PlanAction,
    wire::Validation,
    wire::Rollback,
    wire::Enroll,
    wire::Enrolled,
    wire::BindingChange,
    wire::ProxyIssuer,
    wire::Migration,
    wire::TurnMigration,
    wire::Proxy,
    wire::ProxyStatus,
    wire::HeldBundle,
    wire::TypeStatus,
    wire::Refusal,
    wire::ResourceStatus,
    wire::ProxyConfig,
    wire::ConfigResource,
    wire::Explanation,
    wire::ExplainedResource,
    wire::Token,
    wire::Identity,
    wire::Enforcement,
    wire::IdentityShown,
    wire::HeldLeaf,
    wire::Expiring,
    wire::Rollouts,
    wire::PlannedRollout,
    wire::Paused,
    wire::PauseRollouts,
    wire::ResumeRollouts,
    wire::OpenRecovery,
    wire::Recovery,
    wire::RecoveryWindow,
    wire::ExpiredNode,
    wire::RecoveredNode,
    wire::Hook,
    wire::HookTested,
    wire::Block,
    wire::Unblock,
    wire::BlockOutcome,
    crate::ports::VaultLogin,
    wire::Issuer,
    wire::VaultIssuer,
    wire::AcmeServer,
    wire::AddAcme,
    wire::ChangeAccountKey,
    wire::RegisterAgain,
    wire::AddIssuer,
    wire::UpdateIssuer,
    wire::IssuerLeaves,
    wire::UnknownLeaf,
    wire::IssuerCheck,
    wire::IssuerTest,
    wire::IssuerChange,
    wire::MigrateIssuer,
    wire::IssuerMigration,
    crate::ports::EdgeChallenge,
    crate::ports::DnsPublisher,
    wire::AddEdge,
    wire::RenewEdge,
    wire::Edge,
    wire::EdgeCertificate,
    wire::EdgeProxy,
    wire::EdgeChange,
    wire::Drain,
    wire::DrainTime,
    wire::Authority,
    wire::Rotate,
    wire::Rotation,
    wire::RotateRoot,
    wire::RootRotation,
    wire::RotationBarrier,
    wire::RotationPlan,
    wire::RotationTally,
    wire::Laggard,
    wire::Emergency,
    wire::EmergencyStatus,
    wire::SignedCertificate,
    wire::RequestAuthority,
    wire::AuthorityRequest,
    wire::PendingRequest,
    wire::ByHand,
    wire::InstallAuthority,
    wire::Installed,
    wire::Ladder,
    wire::Link,
    wire::Rung,
    wire::Certificate,
    wire::Revoke,
    wire::Revocation,
    wire::ListUptake,
    wire::StillRevoked,
    wire::RevocationList,
    wire::Probe,
    wire::Probed,
    wire::AuditRow,
    wire::Service,
    wire::Endpoint,
    wire::Stats,
    wire::Status,
    wire::Expiry,
    wire::FailedRenewal,
    wire::Done,
    wire::SetSecret,
    wire::Secret,
    wire::SecretChange,
    wire::Sealing,
    wire::KeySlot,
    wire::DataKey,
    wire::AddSlot,
    wire::RotateKey,
    wire::RotatedKey,
    wire::KeyRotation,
    wire::AcceptStore,
    wire::StoreState,
    wire::ClockState,
)))]
struct Schemas;

/// What a body or answer is.
#[derive(Clone, Copy)]
enum Shape {
    /// Nothing.
    None,
    /// Documents as YAML or JSON.
    Documents,
    /// Plain text.
    Text,
    /// Any JSON.
    Json,
    /// One of a schema.
    One(&'static str),
    /// A page of a schema.
    Page(&'static str),
}

use Shape::{Documents, Json as AnyJson, None as Nothing, One, Page, Text};

/// What one route is for: method, path, summary, query parameters, body, answer.
type Route = (&'static str, &'static str, &'static str, &'static [&'static str], Shape, Shape);

const DRY: &[&str] = &["dry_run"];
const IN_NAMESPACE: &[&str] = &["namespace"];

#[rustfmt::skip]
const ROUTES: &[Route] = &[
    ("get", "/configs", "The newest revision of each live document", &["namespace", "kind", "name", "text", "limit", "after"], Nothing, Page("Config")),
    ("post", "/configs", "Store the draft of a new document; 409 if there is one of its name", &["namespace", "dry_run"], Documents, One("Config")),
    ("get", "/configs/{id}", "The newest revision of a document, with its text; its ETag is the revision", &[], Nothing, One("Config")),
    ("put", "/configs/{id}", "Store a draft beside the effective revision; If-Match refuses a lost update with 412", DRY, Documents, One("Config")),
    ("delete", "/configs/{id}", "End a document; refused while another one needs it; takes If-Match", DRY, Nothing, One("Plan")),
    ("post", "/configs/{id}/validate", "Whether the newest revision could be applied now, and what that would do", &[], Nothing, One("Validation")),
    ("post", "/configs/{id}/apply", "Make the newest draft effective; safe to repeat; takes If-Match", DRY, Nothing, One("Plan")),
    ("get", "/configs/{id}/history", "Every revision of a document, newest first", &["limit", "after"], Nothing, Page("Config")),
    ("post", "/validate", "Whether a text could be applied now, and what that would do; changes nothing", &["namespace", "file"], Documents, One("Validation")),
    ("post", "/apply", "Store and apply every document of a text, all or none; safe to repeat", &["namespace", "file", "prune", "prune_up_to", "dry_run", "reason"], Documents, One("Plan")),
    ("get", "/history", "Every revision of the documents that ever had a name, newest first", &["namespace", "kind", "name", "text", "limit", "after"], Nothing, Page("Config")),
    ("post", "/rollback", "Make the text of an older revision effective again, as a new revision", &[], One("Rollback"), One("Plan")),
    ("get", "/services", "EDS clusters with their addresses and the nodes that have them", IN_NAMESPACE, Nothing, Page("Service")),
    ("get", "/services/{name}", "The services of one name", IN_NAMESPACE, Nothing, Page("Service")),
    ("get", "/endpoints", "Every address of every service", IN_NAMESPACE, Nothing, Page("Endpoint")),
    ("get", "/endpoints/{service}", "The addresses of one service", IN_NAMESPACE, Nothing, Page("Endpoint")),
    ("get", "/proxies", "The nodes and how they stand; state restricts to those that are online, offline, synced, not-sent, stale or nack", &["namespace", "state", "limit", "after"], Nothing, Page("Proxy")),
    ("post", "/proxies", "Admit a node: write its binding and answer a join token, once", &[], One("Enroll"), One("Enrolled")),
    ("get", "/proxies/{node_id}", "One node, resource by resource", &[], Nothing, One("Proxy")),
    ("delete", "/proxies/{node_id}", "Remove a binding: streams end, tokens are revoked", DRY, Nothing, One("Done")),
    ("get", "/proxies/{node_id}/status", "What a node was sent, acknowledged and refused", &[], Nothing, One("ProxyStatus")),
    ("get", "/proxies/{node_id}/config", "The exact snapshot of a node, keys redacted, secrets as names and versions", &[], Nothing, One("ProxyConfig")),
    ("get", "/proxies/{node_id}/explain", "Which document caused each resource of a node", &[], Nothing, One("Explanation")),
    ("put", "/proxies/{node_id}/issuer", "Have an issuer sign the leaves of a node, or whoever does by default", &[], One("ProxyIssuer"), One("Done")),
    ("post", "/proxies/{node_id}/reload", "Send a node everything again on its open streams; restarts nothing", DRY, Nothing, One("Done")),
    ("get", "/tokens", "Join tokens, without their secrets", &[], Nothing, Page("Token")),
    ("delete", "/tokens/{id}", "Revoke a join token that was not used", DRY, Nothing, One("Done")),
    ("get", "/identities", "Every identity that a node is or speaks for, and every blocked one; or one of them", &["id"], Nothing, Page("Identity")),
    ("get", "/identities/{id}", "One identity, by its SPIFFE ID: who speaks for it, and until when it survives without its issuer", &[], Nothing, One("IdentityShown")),
    ("post", "/identities/block", "Block an identity: its streams end, renewal and enrolment are refused; with \"now\", every proxy refuses its requests, and the answer waits up to 5 s for their acknowledgements", &[], One("Block"), One("BlockOutcome")),
    ("post", "/identities/unblock", "Lift a block", &[], One("Unblock"), One("BlockOutcome")),
    ("get", "/authorities", "Every authority that was not removed, with its certificate", &[], Nothing, Page("Authority")),
    ("post", "/authorities/rotate", "Replace the issuing authority by one with a new key; each call does it again", &[], One("Rotate"), One("Rotation")),
    ("get", "/bundle", "The roots of the trust domain as PEM: what an operator's bundle.crt should hold", &[], Nothing, Text),
    ("get", "/authorities/root/rotation", "How the rotation of the root stands, and who would break by its next step", &[], Nothing, One("RootRotation")),
    ("post", "/authorities/root/rotation", "Take a step of the rotation of the root: refused while somebody would break, by name", &[], One("RotateRoot"), One("RootRotation")),
    ("post", "/authorities/emergency", "Treat an authority's key as stolen: a new root takes over within a minute; safe to repeat", &[], One("Emergency"), One("EmergencyStatus")),
    ("get", "/authorities/{id}/emergency", "How far the answer to a stolen key is, and who was left behind", &[], Nothing, One("EmergencyStatus")),
    ("get", "/authorities/{id}/signed", "Every certificate that this authority's root and the authorities below it signed, newest first", &["limit", "after"], Nothing, Page("SignedCertificate")),
    ("get", "/authorities/request", "The request for an issuing authority that was not answered yet", &[], Nothing, One("AuthorityRequest")),
    ("post", "/authorities/request", "The request for an issuing authority that somebody else is to sign: the pending one, or a new one; its key never leaves the server", &[], One("RequestAuthority"), One("AuthorityRequest")),
    ("delete", "/authorities/request", "Drop the pending request and destroy its key", &["dry_run", "reason"], Nothing, One("Done")),
    ("post", "/authorities/install", "Take the chain that was signed for the pending request: refused with the ladder of every rule, or taken through the same gates as any rotation", &[], One("InstallAuthority"), One("Installed")),
    ("get", "/certificates", "Certificates as the journal knows them: the newest valid one of each identity and node, or all", &["id", "node", "class", "authority", "all", "limit", "after"], Nothing, Page("Certificate")),
    ("get", "/certificates/{serial}", "One certificate with its chain", &[], Nothing, One("Certificate")),
    ("post", "/certificates/{serial}/revoke", "Have a certificate count no more: our doors refuse it at once; where proxies check against revocation lists, it is on the next one, and the answer waits up to 8 s for their acknowledgements", &[], One("Revoke"), One("Revocation")),
    ("post", "/certificates/probe", "Issue a certificate of 10 minutes for the probe identity", &[], One("Probe"), One("Probed")),
    ("post", "/certificates/renew", "Issue the caller's own operator certificate again, for a new key", &[], One("Probe"), One("Probed")),
    ("get", "/secrets", "Imported secrets, without their values", &[], Nothing, Page("Secret")),
    ("post", "/secrets", "Write an imported secret with its grants; values go in and never come out", &[], One("SetSecret"), One("SecretChange")),
    ("get", "/secrets/{namespace}/{name}", "One imported secret, without its value", &[], Nothing, One("Secret")),
    ("delete", "/secrets/{namespace}/{name}", "Remove an imported secret; its record is destroyed", DRY, Nothing, One("Done")),
    ("post", "/secrets/{namespace}/{name}/rotate", "Replace the value of an imported secret; its grants stay", &[], One("SetSecret"), One("SecretChange")),
    ("get", "/issuers", "Who signs: the built-in authorities, and issuers beside them, without their credentials", &[], Nothing, Page("Issuer")),
    ("post", "/issuers", "Name an issuer; it is tried whole, and refused with everything that does not work", &[], One("AddIssuer"), One("IssuerChange")),
    ("post", "/issuers/acme", "Name an ACME server and make an account there; a dry run only reads its directory", &[], One("AddAcme"), One("IssuerChange")),
    ("post", "/issuers/migrate", "Have an issuer sign our next authority, or with a role the leaves of workloads; what it takes until it is believed follows by gates", &[], One("MigrateIssuer"), One("IssuerMigration")),
    ("post", "/issuers/migrate/abort", "Have all leaves that were on their way to another issuer go back", &[], One("TurnMigration"), One("IssuerMigration")),
    ("post", "/issuers/migrate/resume", "Have a migration of leaves that was stopped by trouble go on", &[], One("TurnMigration"), One("IssuerMigration")),
    ("get", "/issuers/{name}", "One issuer, without its credentials", &[], Nothing, One("Issuer")),
    ("patch", "/issuers/{name}", "Change an issuer, or its credentials; it is tried whole before anything is kept", &[], One("UpdateIssuer"), One("IssuerChange")),
    ("delete", "/issuers/{name}", "Remove an issuer; refused while unexpired authorities or leaves are of it", &["dry_run", "reason"], Nothing, One("Done")),
    ("post", "/issuers/{name}/test", "Try everything that the next renewal needs, with a throwaway key; of an ACME server, whether it has our account", &[], Nothing, One("IssuerTest")),
    ("post", "/issuers/{name}/account-key", "Give the account at an ACME server another key", &[], One("ChangeAccountKey"), One("IssuerChange")),
    ("post", "/issuers/{name}/register-again", "Make the account anew at an ACME server that has lost it; 409 when the server has it", &[], One("RegisterAgain"), One("IssuerChange")),
    ("get", "/edges", "Certificates for public names: what proxies show, when it is renewed, and what fails", &[], Nothing, Page("Edge")),
    ("post", "/edges", "Want a certificate for public names; it is tried whole, and refused with everything that does not work; 409 when there is one of that name", &[], One("AddEdge"), One("EdgeChange")),
    ("get", "/edges/{name}", "One of them, without its keys", &[], Nothing, One("Edge")),
    ("delete", "/edges/{name}", "Want it no more: its certificate and keys are destroyed", &["dry_run", "reason"], Nothing, One("Done")),
    ("post", "/edges/{name}/renew", "Obtain or renew it now, as far as its server lets us; can be repeated", &[], One("RenewEdge"), One("Done")),
    ("get", "/kek", "Key slots and data keys, and how many records are under an old key", &[], Nothing, One("Sealing")),
    ("post", "/kek/slots", "Add the key slot that the server's configuration names; no key is ever sent", &[], One("AddSlot"), One("Done")),
    ("delete", "/kek/slots/{name}", "Remove a key slot; refused for the last, when no other opens, and when only slots in Vault would be left", &["dry_run", "reason", "insecure_single_slot"], Nothing, One("Done")),
    ("post", "/kek/rotate", "Replace a key-encryption key, the root key, or data keys, while everything serves", &[], One("RotateKey"), One("KeyRotation")),
    ("post", "/audit/accept", "Take the store as it is after STORE_ROLLBACK, so that signing goes on", &[], One("AcceptStore"), One("Done")),
    ("get", "/audit", "The audit log, newest first", &["since", "until", "action", "actor", "object", "text", "limit", "after"], Nothing, Page("AuditRow")),
    ("get", "/rollouts", "What is replaced by itself next, and whether that is paused", &[], Nothing, One("Rollouts")),
    ("post", "/rollouts/pause", "Stop replacing authorities by itself for a while; renewals go on; a pause that holds already is replaced", &[], One("PauseRollouts"), One("Done")),
    ("post", "/rollouts/resume", "End the pause before its time; 404 when nothing is paused", &[], One("ResumeRollouts"), One("Done")),
    ("get", "/recovery", "Whether nodes may come back with expired certificates, which have expired, and which came back", &[], Nothing, One("Recovery")),
    ("post", "/recovery", "Let nodes come back for a while, each once, by proof of their old key; closes the window that is open", &[], One("OpenRecovery"), One("Recovery")),
    ("delete", "/recovery", "Close the window before its time; 404 when none is open", &["dry_run", "reason"], Nothing, One("Done")),
    ("get", "/hooks", "The hooks of the server's configuration, and how they stand", &[], Nothing, Page("Hook")),
    ("post", "/hooks/{name}/test", "Tell a hook that this is a test, and wait for what it makes of it; 409 while it is told something else", &[], Nothing, One("HookTested")),
    ("get", "/expiries", "Everything that ends, soonest first; within=7d restricts to what ends in that time or has ended", &["within", "limit", "after"], Nothing, Page("Expiring")),
    ("get", "/stats", "The numbers of a front page", &[], Nothing, One("Stats")),
    ("get", "/status", "Everything that \"credence status\" shows", &[], Nothing, One("Status")),
    ("get", "/openapi.json", "This description", &[], Nothing, AnyJson),
    ("get", "/livez", "Whether the process lives", &[], Nothing, Text),
    ("get", "/health", "The same as /livez", &[], Nothing, Text),
    ("get", "/readyz", "Whether every part has served its first truth and our own trust lasts; 503 says what does not", &[], Nothing, Text),
    ("get", "/ready", "The same as /readyz", &[], Nothing, Text),
    ("get", "/metrics", "Metrics in the text format of OpenMetrics", &[], Nothing, Text),
];

/// `GET /api/v1/openapi.json`.
pub(crate) async fn document() -> Json<Value> {
    Json(describe())
}

/// The whole description.
#[must_use]
pub fn describe() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let (method, path) = (route.0, full_path(route.1));
        let operation = operation(route);
        if let Some(methods) = paths.entry(path).or_insert_with(|| json!({})).as_object_mut() {
            methods.insert(method.to_owned(), operation);
        }
    }
    let schemas = serde_json::to_value(Schemas::openapi()).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Credence",
            "version": "v1",
            "description": "Management of Credence. Every call needs an operator certificate (mutual TLS 1.3).",
        },
        "paths": paths,
        "components": schemas["components"],
    })
}

fn full_path(path: &str) -> String {
    let bare = matches!(path, "/livez" | "/health" | "/readyz" | "/ready" | "/metrics");
    if bare { path.to_owned() } else { format!("/api/v1{path}") }
}

fn operation(route: &Route) -> Value {
    let (method, path, summary, query, body, answer) = route;
    let mut parameters: Vec<Value> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(
        query.iter().map(|name| json!({"name": name, "in": "query", "schema": {"type": kind_of(name)}})),
    );
    let path = full_path(path);
    let method = http::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap_or_default();
    let permission = access::permission(&method, &path).map_or("nothing", access::Permission::words);
    let mut operation = json!({
        "summary": summary,
        "description": format!("Needs the permission to {permission}."),
        "parameters": parameters,
        "responses": {
            "2XX": {"description": "Done", "content": content(*answer)},
            "default": {
                "description": "A problem document",
                "content": {problem::MEDIA_TYPE: {"schema": reference("Problem")}},
            },
        },
    });
    if !matches!(body, Nothing) {
        operation["requestBody"] = json!({"required": true, "content": content(*body)});
    }
    operation
}

fn kind_of(parameter: &str) -> &'static str {
    match parameter {
        "limit" | "prune_up_to" => "integer",
        "dry_run" | "prune" | "all" | "insecure_single_slot" => "boolean",
        _ => "string",
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn content(shape: Shape) -> Value {
    match shape {
        Nothing => json!({}),
        Documents => json!({"application/yaml": {}, "application/json": {}}),
        Text => json!({"text/plain": {"schema": {"type": "string"}}}),
        AnyJson => json!({"application/json": {}}),
        One(schema) => json!({"application/json": {"schema": reference(schema)}}),
        Page(schema) => json!({"application/json": {"schema": {
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": {"type": "array", "items": reference(schema)},
                "next": {"type": "string", "description": "pass this as after for the next page"},
            },
        }}}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_every_route_of_the_access_table_and_no_other() {
        let described: Vec<String> =
            ROUTES.iter().map(|route| format!("{} {}", route.0.to_uppercase(), full_path(route.1))).collect();
        let known: Vec<String> = access::TABLE.iter().map(|row| format!("{} {}", row.0, row.1)).collect();
        assert_eq!(described, known);
    }

    #[test]
    fn every_reference_resolves() {
        let document = describe();
        let text = document.to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "one variable refreshes golden files")]
    fn is_what_the_golden_file_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let now = serde_json::to_string_pretty(&describe()).unwrap() + "\n";
        if std::env::var("CREDENCE_BLESS").is_ok() {
            std::fs::write(path, &now).unwrap();
        }
        let golden = std::fs::read_to_string(path).unwrap_or_default();
        assert!(golden == now, "{path} differs: set CREDENCE_BLESS=1, run again, and review the change");
    }
}
