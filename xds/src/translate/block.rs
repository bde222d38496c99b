//! Who is refused: two filters that every listener names and that are fed apart from it, so that a block changes
//! neither a listener nor anybody else's connection; and whom clusters take for a server.
//!
//! What Envoy does with each of these was measured: `docs/explanation/blocking.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::{Message, Name};
use proto::{
    envoy::{
        config::{
            core::v3::{ExtensionConfigSource, TypedExtensionConfig},
            rbac::v3::{
                Permission, Policy, Principal, Rbac as Rules, permission,
                principal::{Authenticated, Identifier},
                rbac::Action,
            },
        },
        extensions::filters::{http::rbac::v3::Rbac as HttpRbac, network::rbac::v3::Rbac as NetworkRbac},
        r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
    },
    google::api::expr::v1alpha1::{Constant, Expr, constant::ConstantKind, expr},
};
use spiffe::{SpiffeId, TrustDomain};

use super::{Made, ads, pack};
use crate::{TypeUrl, model::FieldPath};

/// The filter of HTTP chains, and the name of the resource that feeds it.
pub const HTTP_BLOCK: &str = "credence/identity-block";
/// The filter of TCP chains, and the name of the resource that feeds it.
pub const TCP_BLOCK: &str = "credence/identity-block-tcp";

/// A reserved path that no certificate has.
const NOBODY: &str = "credence/nobody";

/// The workloads that every proxy refuses, as clients and as servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denied(BTreeSet<SpiffeId>);

impl Denied {
    /// Exactly these.
    #[must_use]
    pub fn new(identities: BTreeSet<SpiffeId>) -> Self {
        Self(identities)
    }

    /// Whether nobody is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a cluster of these servers takes other ones when `other` are refused instead.
    pub(crate) fn differs_for(&self, servers: &[SpiffeId], other: &Self) -> bool {
        servers.iter().any(|server| self.0.contains(server) != other.0.contains(server))
    }

    /// The resources that feed the filters: the same two for every proxy.
    pub(crate) fn filters(&self) -> [Made; 2] {
        let rules = (!self.is_empty()).then(|| self.rules());
        let http = HttpRbac { rules: rules.clone(), ..Default::default() };
        let tcp = NetworkRbac { rules, stat_prefix: "identity_block.".to_owned(), ..Default::default() };
        [extension(HTTP_BLOCK, &http), extension(TCP_BLOCK, &tcp)]
    }

    /// Refuses blocked clients, by the exact name in the certificate that they proved; and everybody where our own
    /// certificate is a blocked one's, so that a blocked server that is still ours serves nobody from that moment.
    fn rules(&self) -> Rules {
        let clients = self.0.iter().map(|id| Principal { identifier: Some(authenticated(id)) }).collect();
        let anything = vec![Permission { rule: Some(permission::Rule::Any(true)) }];
        let anybody = vec![Principal { identifier: Some(Identifier::Any(true)) }];
        let client = Policy { permissions: anything.clone(), principals: clients, ..Default::default() };
        let server = Policy {
            permissions: anything,
            principals: anybody,
            condition: Some(self.own_certificate()),
            ..Default::default()
        };
        Rules {
            action: Action::Deny.into(),
            policies: BTreeMap::from([
                ("blocked-client".to_owned(), client),
                ("blocked-server".to_owned(), server),
            ]),
            ..Default::default()
        }
    }

    /// `connection.uri_san_local_certificate in [...]`
    fn own_certificate(&self) -> Expr {
        let ident = expr::Ident { name: "connection".to_owned() };
        let connection = Expr { id: 1, expr_kind: Some(expr::ExprKind::IdentExpr(ident)) };
        let field = expr::Select {
            operand: Some(Box::new(connection)),
            field: "uri_san_local_certificate".to_owned(),
            test_only: false,
        };
        let own = Expr { id: 2, expr_kind: Some(expr::ExprKind::SelectExpr(Box::new(field))) };
        let text = |(id, identity): (i64, &SpiffeId)| Expr {
            id,
            expr_kind: Some(expr::ExprKind::ConstExpr(Constant {
                constant_kind: Some(ConstantKind::StringValue(identity.to_string())),
            })),
        };
        let list =
            expr::CreateList { elements: (5..).zip(&self.0).map(text).collect(), ..Default::default() };
        let list = Expr { id: 4, expr_kind: Some(expr::ExprKind::ListExpr(list)) };
        let call = expr::Call { function: "@in".to_owned(), args: vec![own, list], ..Default::default() };
        Expr { id: 3, expr_kind: Some(expr::ExprKind::CallExpr(Box::new(call))) }
    }

    /// Whom a cluster of these servers still takes for one. Never empty, which would mean anybody.
    pub(super) fn servers(&self, named: &[SpiffeId], domain: &TrustDomain) -> Vec<MatchPattern> {
        let left = named.iter().filter(|server| !self.0.contains(*server));
        let mut left: Vec<_> = left.map(|server| MatchPattern::Exact(server.to_string())).collect();
        if left.is_empty() {
            left.push(MatchPattern::Exact(format!("{}/{NOBODY}", domain.to_uri())));
        }
        left
    }
}

/// Where a listener gets the filter `M` from: without a default, so that it does not open before it is known who is
/// blocked, and answers nothing but errors should it never be told.
fn source<M: Name>() -> ExtensionConfigSource {
    ExtensionConfigSource { config_source: Some(ads()), type_urls: vec![M::type_url()], ..Default::default() }
}

/// The source of the HTTP filter.
pub(super) fn http_source() -> ExtensionConfigSource {
    source::<HttpRbac>()
}

/// The source of the TCP filter.
pub(super) fn tcp_source() -> ExtensionConfigSource {
    source::<NetworkRbac>()
}

/// A reference to a filter's resource.
pub(super) fn reference(name: &str) -> (TypeUrl, Arc<str>) {
    (TypeUrl::Extension, name.into())
}

fn authenticated(id: &SpiffeId) -> Identifier {
    let exact = MatchPattern::Exact(id.to_string());
    let name = StringMatcher { match_pattern: Some(exact), ..Default::default() };
    Identifier::Authenticated(Authenticated { principal_name: Some(name) })
}

fn extension<M: Message + Name>(name: &str, config: &M) -> Made {
    let content = TypedExtensionConfig { name: name.to_owned(), typed_config: Some(pack(config)) };
    Made {
        type_url: TypeUrl::Extension,
        name: name.into(),
        content: content.encode_to_vec(),
        references: Vec::new(),
        origin: FieldPath::default(),
    }
}

#[cfg(test)]
mod tests;
