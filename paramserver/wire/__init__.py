"""The wire: frames, codec, messages and the handshake, as bytes in and bytes out. No I/O."""
