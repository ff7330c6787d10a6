"""The proxy on the redirected port: state machines that decide, one runtime that moves the bytes."""
