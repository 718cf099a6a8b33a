-- Posts prepared bodies in turn and prints the measurements as one line of JSON.
-- Arguments: the folder of the bodies 0.body, 1.body, ...; their number; the Content-Type; and,
-- optionally, the mean pause of a connection before its next request, in milliseconds.
local requests, turn, pause = {}, 0, 0

function init(arguments)
   local folder, count, content_type = arguments[1], tonumber(arguments[2]), arguments[3]
   pause = tonumber(arguments[4] or 0)
   if pause > 0 then
      delay = function() return math.floor(2 * pause * math.random() + 0.5) end
   end
   for index = 0, count - 1 do
      local file = assert(io.open(folder .. "/" .. index .. ".body", "rb"))
      local headers = { ["Content-Type"] = content_type }
      requests[index] = wrk.format("POST", nil, headers, file:read("*a"))
      file:close()
   end
end

function request()
   local chosen = requests[turn]
   turn = (turn + 1) % (#requests + 1)
   return chosen
end

function done(summary, latency, _)
   local errors = summary.errors
   io.write(string.format(
      '\nwrk-result {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, '
         .. '"max_ms": %.4f, "not_2xx": %d, "socket_errors": %d, "timeouts": %d}\n',
      summary.requests, summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
      errors.status, errors.connect + errors.read + errors.write, errors.timeout
   ))
end
