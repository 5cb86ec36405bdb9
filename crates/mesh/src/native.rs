//! Links over webrtc-rs.
