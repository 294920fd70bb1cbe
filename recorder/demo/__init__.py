"""What `recorder demo` brings along: an upstream that speaks the Assistants API, and programs that talk to it.

The upstream is of use wherever a realistic stream is wanted without a key or a network:

    from recorder.demo.script import request
    from recorder.demo.upstream import Upstream

    with Upstream(speed=100) as upstream:
        httpx.post(f"{upstream.origin}/v1/threads/runs", json=request("chart"))
"""
