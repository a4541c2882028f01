"""An S3 server that answers what lists an archive, out of memory: PORT VERSIONS CHARTER, a hundred versions to a chain. A page is found by its key, as stores
do it; s3s-fs reads all objects anew for each, so what a list costs there is the server's. For benches/archive."""
import bisect, http.server, sys, urllib.parse
from xml.sax.saxutils import escape
versions = int(sys.argv[2])
keys = {"a/archive.json": open(sys.argv[3], "rb").read()}
for n in range(1, versions + 1):
    base = 0 if n % 100 == 1 else n - 1
    keys[f"a/versions/{n * 10**9:020}-{n:032x}-{base:032x}-0000000000001000-v{n}"] = b""
names = sorted(keys)
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if "list-type" in asked:
            prefix = asked.get("prefix", "")
            after = asked.get("continuation-token") or asked.get("start-after") or ""
            first = max(bisect.bisect_right(names, after), bisect.bisect_left(names, prefix))
            page = [name for name in names[first:first + 1000] if name.startswith(prefix)]
            more = first + 1000 < len(names) and names[first + 1000].startswith(prefix)
            entries = "".join(f'<Contents><Key>{escape(n)}</Key><LastModified>2026-11-20T00:00:00.000Z</LastModified><ETag>"d41d8cd98f00b204e9800998ecf8427e"</ETag><Size>{len(keys[n])}</Size><StorageClass>STANDARD</StorageClass></Contents>' for n in page)
            token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
            body = f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>many</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>'.encode()
            return self.answer(200, body, "application/xml")
        body = keys.get(urllib.parse.unquote(url.path).split("/", 2)[-1])
        if body is None:
            return self.answer(404, b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "application/xml")
        self.answer(200, body, "application/octet-stream")
    def answer(self, status, body, kind):
        self.send_response(status)
        for name, value in (("Content-Length", len(body)), ("Content-Type", kind), ("Last-Modified", "Fri, 20 Nov 2026 00:00:00 GMT"), ("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
