//! Services: the EDS clusters that `Endpoints` documents give addresses to.

use spiffe::Namespace;
use xds::{TypeUrl, Views, model};

use super::{CallError, Caller, Calls};
use crate::{ports::DocumentFilter, wire};

impl Calls {
    /// Every service, with its addresses and the nodes that have it.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_services(
        &self,
        caller: &Caller,
        namespace: Option<&Namespace>,
    ) -> Result<Vec<wire::Service>, CallError> {
        let filter = DocumentFilter {
            tenant: Some(caller.tenant.clone()),
            namespace: namespace.cloned(),
            kind: Some(model::Kind::Endpoints.word().to_owned()),
            ..DocumentFilter::default()
        };
        let views = self.configs.views();
        let bindings = self.configs.bindings();
        let mut services = Vec::new();
        for stored in self.documents.effective(&filter).await? {
            let scope = model::Scope { tenant: stored.tenant.clone(), namespace: stored.namespace.clone() };
            let parsed = model::parse_in(&scope, &stored.name, &stored.text).unwrap_or_default();
            let Some(model::Spec::Endpoints(spec)) = parsed.into_iter().next().map(|one| one.spec) else {
                continue;
            };
            let members = bindings.iter().filter(|binding| binding.namespace == stored.namespace);
            let nodes = members.filter(|binding| has(&views, binding, &stored.name));
            services.push(wire::Service {
                name: stored.name.clone(),
                namespace: stored.namespace.to_string(),
                source: format!("Endpoints {}/{}", stored.namespace, stored.name),
                endpoints: spec.endpoints.iter().map(|one| shown(&stored, one)).collect(),
                nodes: nodes.map(|binding| binding.node.to_string()).collect(),
            });
        }
        Ok(services)
    }

    /// The services of one name, over all namespaces.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get_service(
        &self,
        caller: &Caller,
        name: &str,
        namespace: Option<&Namespace>,
    ) -> Result<Vec<wire::Service>, CallError> {
        let mut found = self.list_services(caller, namespace).await?;
        found.retain(|service| service.name == name);
        if found.is_empty() {
            return Err(CallError::NotFound { what: "service", name: name.to_owned() });
        }
        Ok(found)
    }
}

fn has(views: &Views, binding: &spiffe::Binding, name: &str) -> bool {
    views.get(&binding.node).is_some_and(|snapshot| snapshot.get(TypeUrl::Endpoints, name).is_some())
}

fn shown(stored: &crate::ports::StoredDocument, endpoint: &model::Endpoint) -> wire::Endpoint {
    wire::Endpoint {
        service: stored.name.clone(),
        namespace: stored.namespace.to_string(),
        address: endpoint.address.clone(),
        port: u32::from(endpoint.port.get()),
        weight: endpoint.weight,
        locality: endpoint.locality.as_ref().map(place),
        priority: endpoint.priority.unwrap_or_default(),
    }
}

fn place(locality: &model::Locality) -> String {
    let parts = [&locality.region, &locality.zone, &locality.sub_zone];
    parts.map(|part| part.as_deref().unwrap_or_default()).join("/").trim_end_matches('/').to_owned()
}
