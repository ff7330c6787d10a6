"""Cleartext HTTP/2 with prior knowledge for the sites (the only module that needs the `h2` package)."""

from __future__ import annotations

import asyncio

import h2.config
import h2.connection
import h2.events

from .sites import Answer, Peer, Seen, answer_for, common_headers, describe


async def serve_http2(peer: Peer, preface: bytes) -> None:
    config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    await peer.send(connection.data_to_send())
    streams: dict[int, Seen] = {}
    answers: set[asyncio.Task[None]] = set()
    data = preface
    while data:
        for event in connection.receive_data(data):
            finished = _take(connection, event, streams)
            if finished is not None:
                task = asyncio.create_task(_answer(peer, connection, finished, streams.pop(finished)))
                answers.add(task)
                task.add_done_callback(answers.discard)
        await peer.send(connection.data_to_send())
        data = await peer.reader.read(65536)


def _take(connection: h2.connection.H2Connection, event: h2.events.Event, streams: dict[int, Seen]) -> int | None:
    """Note one event; the number of the stream whose request it completed, if any."""
    match event:
        case h2.events.RequestReceived(stream_id=stream, headers=headers):
            pseudo = {str(name): str(value) for name, value in headers if str(name).startswith(":")}
            fields = [(str(name), str(value)) for name, value in headers if not str(name).startswith(":")]
            fields.insert(0, ("host", pseudo.get(":authority", "")))
            streams[stream] = Seen(pseudo[":method"], pseudo.get(":path", ""), "HTTP/2", fields)
        case h2.events.DataReceived(stream_id=stream, data=data, flow_controlled_length=length):
            streams[stream].body += data
            connection.acknowledge_received_data(length, stream)
        case h2.events.TrailersReceived(stream_id=stream, headers=headers):
            streams[stream].trailers = [(str(name), str(value)) for name, value in headers]
        case h2.events.StreamReset(stream_id=stream):
            streams.pop(stream, None)
        case h2.events.StreamEnded(stream_id=stream):
            return stream
    return None


async def _answer(peer: Peer, connection: h2.connection.H2Connection, stream: int, seen: Seen) -> None:
    peer.lab.last = describe(peer, seen)
    answer = await answer_for(peer, seen)
    if not isinstance(answer, Answer):
        return peer.reset()
    headers = [(":status", str(answer.status)), *common_headers(peer), *answer.extra]
    headers = [pair for pair in headers if pair[0] != answer.omit]
    connection.send_headers(stream, [*headers, ("content-length", str(len(answer.body)))])
    connection.send_data(stream, b"" if seen.method == "HEAD" else answer.body, end_stream=True)
    return await peer.send(connection.data_to_send())
