// Counts the connections that the page makes from now on.
self.peers?.clear();
if (!self.peers) {
  self.peers = new Set();
  const Plain = self.RTCPeerConnection;
  self.RTCPeerConnection = class extends Plain {
    constructor(...how) {
      super(...how);
      peers.add(this);
    }
  };
}
