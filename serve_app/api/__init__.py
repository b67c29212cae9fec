"""HTTP and every other protocol: bytes in, bytes out, statuses, API keys and limits. The only room that knows HTTP."""
