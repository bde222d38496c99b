use super::*;

/// Section 6.3 of the requirements, byte for byte.
const EXAMPLE: &str = include_str!("../../../docs/examples/example-service.yaml");

#[test]
fn the_example_of_the_requirements_is_read_as_it_is_written() {
    let documents = parse("example.yaml", EXAMPLE).unwrap();
    let [document] = documents.as_slice() else { panic!("one document") };
    assert_eq!(document.key.to_string(), "ProxyConfig production/example-service");
    let Spec::ProxyConfig(config) = &document.spec else { panic!("a ProxyConfig") };
    assert_eq!(config.listeners[0].port.get(), 8080);
    let Filter::Http(http) = &config.listeners[0].filter_chains[0].filters[0] else { panic!("HTTP") };
    assert_eq!(http.route_config, "example_routes");
    assert_eq!(config.routes[0].virtual_hosts[0].routes[0].matching.prefix.as_deref(), Some("/api"));
    assert_eq!(config.clusters[0].cluster_type, ClusterType::Eds);
    assert_eq!(config.clusters[0].health_checks[0].interval, std::time::Duration::from_secs(10));
}
