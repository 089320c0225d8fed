/** What is used of cli-progress, which comes without types. */
declare module "cli-progress" {
  export interface Options {
    /** `{bar}`, `{percentage}`, or what `update` gives, in braces. */
    format: string;
    stream: NodeJS.WritableStream;
    barsize: number;
    barCompleteChar: string;
    barIncompleteChar: string;
    /** Per second. */
    fps: number;
    /** Also when nothing has changed. */
    forceRedraw: boolean;
    /** Leave a line that is longer than the terminal to it. */
    linewrap: boolean;
    clearOnComplete: boolean;
    /** End the bar at signals, too. */
    gracefulExit: boolean;
  }

  export class SingleBar {
    constructor(options: Options);
    start(total: number, value: number, payload: Record<string, string>): void;
    setTotal(total: number): void;
    update(value: number, payload: Record<string, string>): void;
    stop(): void;
  }
}
