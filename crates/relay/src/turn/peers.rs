//! Which addresses nobody is relayed to: a TURN server must not be a way into its operator's network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is meant for less than the whole internet, or for more than one host.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => v6(ip),
    }
}

fn v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    match a {
        // This host; private; loopback; multicast, reserved, broadcast.
        0 | 10 | 127 | 224.. => true,
        // Between a provider and its customers.
        100 => b & 0xc0 == 64,
        // Link-local: clouds answer for a machine's own secrets there.
        169 => b == 254,
        172 => b & 0xf0 == 16,
        // Private; protocols between neighbors.
        192 => b == 168 || (b == 0 && c == 0),
        // Benchmarks of networks.
        198 => b & 0xfe == 18,
        _ => false,
    }
}

fn v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    match (a, b) {
        // Unspecified, loopback, and IPv4 written in ways that nobody uses any more.
        (0, 0) if (c, d, e, f) == (0, 0, 0, 0) => true,
        // IPv4 behind translators: 64:ff9b::/96 and 6to4. Local translators have 64:ff9b:1::/48.
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => v4(embedded(g, h)),
        (0x64, 0xff9b) => true,
        (0x2002, _) => v4(embedded(b, c)),
        // Unique local, link-local and site-local, multicast.
        _ => a & 0xfe00 == 0xfc00 || a & 0xff80 == 0xfe80 || a & 0xff00 == 0xff00,
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.0.1",
            "192.168.255.255",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "::ffff:192.168.1.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:a00:1::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ];
        for ip in private {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "126.1.1.1",
            "128.0.0.1",
            "169.253.1.1",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "192.169.1.1",
            "198.17.1.1",
            "198.20.1.1",
            "203.0.113.7",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2001:db8::1",
            "2002:101:101::1",
            "2606:4700::1111",
            "fbff::1",
            "fe00::1",
        ];
        for ip in public {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }
}
