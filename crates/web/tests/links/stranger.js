// A peer that speaks to a tab by itself: it opens channels that nobody wants, and sends what is no frame.
(async () => {
  const peer = new RTCPeerConnection();
  const open = (label) => peer.createDataChannel(label);
  const [other, channel] = [open('other'), open('potluck')];
  self.stranger = { peer, channel, refused: 0 };
  other.onclose = () => { self.stranger.refused += 1; };
  channel.onopen = () => {
    const second = open('potluck');
    second.onclose = () => { self.stranger.refused += 1; };
    channel.send('text');
    channel.send(new Uint8Array(0));
    channel.send(new Uint8Array(LONGEST + 1));
    channel.send(new Uint8Array(LONGEST));
    channel.send(new Uint8Array(3));
  };
  await peer.setLocalDescription();
  await new Promise((resolve) => {
    peer.onicecandidate = ({ candidate }) => { if (!candidate) resolve(); };
  });
  return peer.localDescription.sdp;
})()
