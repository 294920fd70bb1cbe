"""What `recorder demo` brings along: an upstream that speaks the Assistants API, and programs that talk to it.

The upstream is of use wherever a realistic stream is wanted without a key or a network:

    with Upstream(speed=100) as upstream: httpx.post(upstream.origin + "/v1/threads/runs", json=request("chart"))
"""
