//! credence-xds
