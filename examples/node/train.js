// Starts a job on a handgrad server, watches it, and fetches its params. Usage: node train.js [HOST:PORT [EPOCHS]]
import { createHash, randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address = "127.0.0.1:50051", epochs = "3"] = process.argv.slice(2);
const proto = fileURLToPath(new URL("../../proto", import.meta.url));
const contract = loader.loadSync("handgrad/v1/training_service.proto", { includeDirs: [proto], keepCase: true });
const { TrainingService } = grpc.loadPackageDefinition(contract).handgrad.v1;
const client = new TrainingService(address, grpc.credentials.createInsecure());

// Sent again with the same id, it would start no second job.
const request = { preset: "report", config: { epochs: Number(epochs) }, request_id: randomUUID() };
const call = client.Train(request);
let job;
for await (const { event } of call) {
  if (event.accepted) {
    job = event.accepted;
    console.log(`${job.job} trains ${job.model}`);
  } else if (event.epoch) {
    console.log(`epoch ${event.epoch.epoch}: mean loss ${event.epoch.mean_loss.toFixed(4)}`);
  } else if (event.finished) {
    job = event.finished;
    console.log(`${job.job} ended after ${job.iteration} iterations`);
  }
}

const getParams = (request) =>
  new Promise((resolve, reject) =>
    client.GetParams(request, (error, reply) => (error ? reject(error) : resolve(reply))),
  );
const reply = await getParams({ model: job.model });
const digest = createHash("sha256");
for (const { name, shape, data } of reply.tensors) {
  digest.update(data);
  const numbers = new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
  const norm = Math.sqrt(numbers.reduce((sum, x) => sum + x * x, 0));
  console.log(`${name} ${shape.join("x")}: ${numbers.length} numbers, norm ${norm.toFixed(3)}`);
}
const found = digest.digest("hex");
if (found !== reply.params_version.params_sha256) throw new Error(`SHA-256 ${found} is not what was published`);
console.log(`version ${reply.params_version.version}, SHA-256 ${found}`);

// What is known already is not sent again.
const again = await getParams({ model: job.model, if_newer_than: reply.params_version.version });
console.log(again.unchanged ? "nothing newer" : `version ${again.params_version.version}`);
client.close();
