//! Pure functions from mesh values to Envoy messages.
